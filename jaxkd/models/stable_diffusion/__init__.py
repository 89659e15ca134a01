"""Stable Diffusion 1.x and 2.x in Linen: UNet, autoencoder, CLIP towers.

- ``unet``: the noise predictor, with attention that pure functions can control.
- ``vae``: the autoencoder between images and latents.
- ``clip``: the text and image towers.
- ``attention``: the hook, shared by all blocks of the UNet.

Modules are named after the keys of published checkpoints, so that conversion
(``jaxkd.convert.stable_diffusion``) is a mechanical renaming.
"""

from jaxkd.diffusion.attention import AttentionFn, Site, plain_attention
from jaxkd.models.stable_diffusion.clip import (
    Clip,
    ClipImageEncoder,
    ClipTextEncoder,
    preprocess,
)
from jaxkd.models.stable_diffusion.unet import UNet, guidance_embedding
from jaxkd.models.stable_diffusion.vae import Autoencoder

__all__ = [
    "AttentionFn",
    "Autoencoder",
    "Clip",
    "ClipImageEncoder",
    "ClipTextEncoder",
    "Site",
    "UNet",
    "guidance_embedding",
    "plain_attention",
    "preprocess",
]
