"""A chat model is asked whether one hand wrote two words, and why.

    python -m jaxkd.main --config=configs/handwriting_chat.py --config.dry_run=True
    python -m jaxkd.main --config=configs/handwriting_chat.py

The first estimates tokens and dollars, and asks nobody; the second wants a key in
OPENAI_API_KEY and spends at most five dollars. 200 pairs of drawn writers, compared in
two turns and in both orders (arXiv:2407.21788, table of zero-shot models). Any
OpenAI-compatible server does: --config.base_url. docs/handwriting_vlm.md says more.

    configs/handwriting_chat.py:json    one turn, JSON by schema, one composite image
"""

from ml_collections import ConfigDict

from jaxkd.pipelines import chat_verification


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    if arg not in ("", "json"):
        raise ValueError(
            f"configs/handwriting_chat.py has no variant {arg!r}, expected '' or "
            "'json'."
        )
    config = chat_verification.default()
    config.name = "handwriting_chat"
    config.swap = True
    config.budget = 5.0
    if arg == "json":
        config.mode, config.composite = "one_turn_json", True
    return config
