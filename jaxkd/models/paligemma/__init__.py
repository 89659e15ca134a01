"""PaliGemma in Flax: an image and a prompt in, text out.

Beyer et al., "PaliGemma: A versatile 3B VLM for transfer" (arXiv:2407.07726): SigLIP's
image tokens, projected to the decoder's width, come before the prompt; both are the
prefix of a prefix-LM, whose suffix Gemma writes. The sequence is ``[image tokens]
[bos] [prompt] [newline] [suffix] [eos] [padding]``.

The tree of parameters has the names and shapes of big_vision's checkpoints, layers
stacked along the first axis; ``jaxkd.convert.load_paligemma`` reads published weights.
"""

from jaxkd.models.paligemma.config import (
    PRESETS,
    GemmaConfig,
    PaliGemmaConfig,
    SiglipConfig,
    preset,
)
from jaxkd.models.paligemma.decoding import (
    answer_log_likelihood,
    generate,
    log_likelihood,
)
from jaxkd.models.paligemma.model import PaliGemma, init, to_model_range
from jaxkd.models.paligemma.network import PaliGemmaNetwork, compose

__all__ = [
    "PRESETS",
    "GemmaConfig",
    "PaliGemma",
    "PaliGemmaConfig",
    "PaliGemmaNetwork",
    "SiglipConfig",
    "answer_log_likelihood",
    "compose",
    "generate",
    "init",
    "log_likelihood",
    "preset",
    "to_model_range",
]
