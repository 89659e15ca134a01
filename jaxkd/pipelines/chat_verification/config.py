"""What the configuration of the chat pipeline may hold, and its checks."""

from ml_collections import ConfigDict

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.pipelines.chat_verification import asking, prompts
from jaxkd.pipelines.chat_verification.client import reply_limit

# Keys that change no answer: a run may be resumed with others.
RUNTIME_KEYS = (
    "name",
    "workers",
    "timeout",
    "retries",
    "requests_per_minute",
    "budget",
    "dry_run",
    "base_url",
    "key_variable",
    "cache",
)

_AT_LEAST_0 = (
    *("pairs", "few_shot", "again", "budget", "retries", "requests_per_minute"),
    *("price_input", "price_output"),
)


def default() -> ConfigDict:
    """Returns the default configuration: 200 drawn pairs, two turns."""
    config = ConfigDict()
    config.pipeline = "chat_verification"
    config.name = "chat_verification"

    # Who is asked. The key is read from this environment variable and kept nowhere.
    config.model = "gpt-4o"
    config.base_url = "https://api.openai.com/v1"
    config.key_variable = "OPENAI_API_KEY"
    config.params = ConfigDict({"temperature": 0.0, "max_tokens": 800, "seed": 0})

    # About what: a CSV table with the columns sample1, sample2 and label (1 for one
    # writer), beside the folder of the images; or, without a table, drawn writers.
    config.table, config.images = "", ""
    config.word = "and"
    config.pairs = 200  # 0 for all of a table
    config.size = 64  # of drawn words
    config.seed = 0

    # How. ``few_shot`` shows as many labelled pairs of other, drawn writers.
    config.prompts = "handwriting-v1"
    config.mode = "two_turn"  # two_turn, one_turn_json
    config.composite = False
    config.swap = False
    config.few_shot = 0
    config.detail = "high"
    config.again = 1  # how often an answer without a decision is asked for again

    # How fast and how much. Prices are dollars for a million tokens.
    config.workers = 4
    config.timeout, config.retries = 60.0, 6
    config.requests_per_minute = 0.0
    config.price_input, config.price_output = 2.5, 10.0
    config.budget = 0.0  # dollars in all; 0 for no limit
    config.cache = ""  # folder of replies; "" for one in the run's
    config.dry_run = False  # estimate the cost, ask nobody
    return config.lock()


def check(config: ConfigDict) -> None:
    """Checks names and ranges before anybody is asked.

    Raises:
      UserError: for an unknown key or an impossible value.
    """
    known = default()
    wrong = sorted(set(config) - set(known))
    if wrong:
        raise UserError(
            f"config has no key {', '.join(wrong)}. Keys: {', '.join(known)}."
        )
    lookup.choose(config.mode, dict.fromkeys(asking.MODES), what="mode")
    lookup.choose(config.detail, dict.fromkeys(prompts.DETAILS), what="detail")
    for name in _AT_LEAST_0:
        if not config[name] >= 0:
            raise UserError(f"config.{name} is {config[name]}, expected 0 or more.")
    if config.workers < 1 or config.timeout <= 0 or config.size < 1:
        raise UserError(
            f"config.workers is {config.workers}, config.timeout {config.timeout} and "
            f"config.size {config.size}, expected at least one worker, a positive time "
            "and at least one pixel."
        )
    if config.budget and not reply_limit(config.params):
        raise UserError(
            f"config.budget is {config.budget}, but config.params has no max_tokens or "
            "max_completion_tokens, so that a reply could cost anything. Set one."
        )
    if config.few_shot % 2:
        raise UserError(
            f"config.few_shot is {config.few_shot}, expected an even number: as many "
            "examples of one writer as of two."
        )
    if not config.table and (config.pairs < 2 or config.pairs % 2):
        raise UserError(
            f"config.pairs is {config.pairs}, expected an even number of drawn pairs, "
            "or a config.table."
        )
    if bool(config.table) != bool(config.images):
        raise UserError(
            f"config.table is {config.table!r} and config.images {config.images!r}, "
            "expected both, or neither for drawn words."
        )
    prompts.read(config.prompts)
