"""Asks a chat model whether one hand wrote two words, and why (arXiv:2407.21788).

Images go as image parts, in every mode; nothing is dropped: a pair without a usable
answer is an error, and how many were answered stands beside it. Everything that was
paid for is on disk: replies in ``cache/``, answers in ``answers.jsonl``; the same
command resumes an interrupted run, and repeats a finished one without a call.

The published script pastes images as base64 text and leaves out who answers "Unknown";
that is not reproduced.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import provenance, records
from jaxkd.core.config import resolved
from jaxkd.core.errors import Interrupted, UserError
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.core.writers import write_json
from jaxkd.pipelines.chat_verification import asking, pairs, prompts, results
from jaxkd.pipelines.chat_verification.client import Client, Settings, price
from jaxkd.pipelines.chat_verification.config import RUNTIME, check, default
from jaxkd.pipelines.chat_verification.results import format_table
from jaxkd.training.workdir import CONFIG

__all__ = ("check", "default", "format_table", "run", "sample")

ANSWERS = "answers.jsonl"


def run(
    config: ConfigDict, workdir: Path, stop_requested: StopRequest = never_stop
) -> dict[str, Any]:
    """Asks about all pairs, or the rest of them, and measures the answers.

    Raises:
      UserError: for an impossible configuration, a folder of another run, a refused
        key, or a reached budget; the answers so far are kept.
      Interrupted: if it was asked to stop between two pairs.
    """
    check(config)
    _check_folder(workdir, config)
    loaded = pairs.load(config)
    plan = asking.Plan(
        prompts=prompts.read(config.prompts),
        mode=config.mode,
        composite=config.composite,
        swap=config.swap,
        detail=config.detail,
        again=config.again,
        examples=loaded.examples,
        workers=config.workers,
    )
    settings = _settings(config)
    described = {"pipeline": "chat_verification", "model": config.model}
    described |= {"mode": config.mode, "prompt_id": plan.prompts.prompt_id}
    if config.dry_run:
        cost = asking.estimate(loaded.questions, plan, settings)
        return described | {"estimate": cost}
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / CONFIG, resolved(config))
    path = workdir / ANSWERS
    client = Client(settings, Path(config.cache or workdir / "cache"))
    try:
        # What earlier calls of this run have cost counts, too.
        client.spent = sum(
            price(settings, row["prompt_tokens"], row["completion_tokens"])
            for row in asking.read_answers(path)
        )
        rows, reason = asking.ask_all(
            loaded.questions, plan, client, path, lambda: bool(stop_requested())
        )
    finally:
        client.close()
    results.write_table(workdir / "verdicts.csv", rows)
    if reason == "stopped":
        raise Interrupted(
            f"Stopped after {len(rows)} answers; the same command asks for the rest."
        )
    if reason == "budget":
        raise UserError(
            f"The budget of ${config.budget:.2f} is reached after {len(rows)} answers "
            f"(${client.spent:.2f}), which are kept in {path}. Raise config.budget and "
            "run the same command to go on."
        )
    found = described | {
        "prompt_sha256": plan.prompts.sha256,
        "measures": results.measure(rows, loaded),
        "dollars": client.spent,
        "provenance": provenance.describe(),
    }
    results.write_page(workdir / "report.html", rows, loaded)
    records.write_results(workdir, found)
    return found


def sample(
    config: ConfigDict,
    workdir: Path,
    seeds: Sequence[int],
    output: str | Path | None = None,
) -> Path:
    """Refuses: a chat model draws nothing here.

    Raises:
      UserError: always.
    """
    raise UserError(
        "The pipeline chat_verification draws no samples. Its pairs and explanations "
        f"are in {workdir / 'report.html'}."
    )


def _check_folder(workdir: Path, config: ConfigDict) -> None:
    path = workdir / CONFIG
    if not path.exists():
        return
    saved, given = records.read_config(workdir), resolved(config)
    wrong = [
        f"config.{key}: {saved.get(key)!r} there, {given[key]!r} here"
        for key in given
        if key not in RUNTIME and saved.get(key) != _plain(given[key])
    ]
    if wrong:
        raise UserError(
            f"{workdir} holds answers of another configuration:\n  "
            + "\n  ".join(wrong[:8])
            + "\nChoose another --workdir, or delete that folder."
        )


def _plain(value: Any) -> Any:
    """Returns a value as JSON gives it back."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _settings(config: ConfigDict) -> Settings:
    return Settings(
        model=config.model,
        base_url=config.base_url,
        key_variable=config.key_variable,
        params=dict(config.params),
        timeout=config.timeout,
        retries=config.retries,
        requests_per_minute=config.requests_per_minute,
        price_input=config.price_input,
        price_output=config.price_output,
        budget=config.budget,
    )
