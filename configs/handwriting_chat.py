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

from jaxkd.core.lookup import choose
from jaxkd.pipelines import chat_verification


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": {}, "json": {"mode": "one_turn_json", "composite": True}}
    chosen = choose(arg, variants, what="configs/handwriting_chat.py variant")
    config = chat_verification.default()
    config.name = "handwriting_chat"
    config.swap = True
    config.budget = 5.0
    config.update(chosen)
    return config
