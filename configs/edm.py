"""A small diffusion model, trained here: EDM on scikit-learn's digits.

    python -m jaxkd.main --config=configs/edm.py

trains a SongUNet on 1,257 images of 8 x 8 pixels with EDM's loss (Karras et al.,
"Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
arXiv:2206.00364), keeps a moving average of its weights, and draws samples; minutes on
two CPU cores, no download. The score is the loss, so lower is better. Variants:

    configs/edm.py:quick             few steps: a look at how it works
    configs/edm.py:conditional       the network is told the class
    configs/edm.py:glyphs            16 x 16 drawn characters in colour, 8,000 images

Which schedule samples it best with few model calls:

    python -m jaxkd.main --config=configs/gits.py:trained,runs/edm
"""

from ml_collections import ConfigDict

from jaxkd.core.lookup import choose
from jaxkd.recipes import diffusion


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": diffusion.digits,
        "quick": quick,
        "conditional": conditional,
        "glyphs": glyphs,
    }
    return choose(arg, variants, what="configs/edm.py variant")()


def quick() -> ConfigDict:
    """A few steps of a narrow network."""
    config = diffusion.digits()
    config.name = "edm-quick"
    config.model.model_channels = 8
    config.duration, config.eval_every, config.optim.warmup = 60, 30, 10
    return config


def conditional() -> ConfigDict:
    """The class is told; samples have the training images' classes in turn."""
    config = diffusion.digits()
    config.name = "edm-digits-conditional"
    config.model.conditional = True
    return config


def glyphs() -> ConfigDict:
    """Characters of 16 x 16 pixels in colour: half an hour."""
    config = diffusion.digits()
    config.name = "edm-glyphs"
    config.data = ConfigDict({"name": "glyph100", "test": 1_000})
    config.model.model_channels = 32
    config.duration = 4_000
    return config
