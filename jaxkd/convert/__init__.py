"""Other people's weights in, and ours out: see ``python -m jaxkd.convert --help``."""

from jaxkd.convert.lpips import load_lpips
from jaxkd.convert.paligemma import load_paligemma
from jaxkd.convert.stable_diffusion import (
    StableDiffusion,
    load_clip,
    load_stable_diffusion,
    save_stable_diffusion,
)
from jaxkd.convert.torch.weights import load_torch, save_torch

__all__ = [
    "StableDiffusion",
    "load_clip",
    "load_lpips",
    "load_paligemma",
    "load_stable_diffusion",
    "load_torch",
    "save_stable_diffusion",
    "save_torch",
]
