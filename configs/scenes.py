"""A small text-to-image model of drawn scenes, trained here.

    python -m jaxkd.main --config=configs/scenes.py

trains a text encoder and a UNet, Stable Diffusion's modules in small, on 12,000 scenes
of 32 x 32 pixels with one or two coloured shapes, given captions such as "a red circle
left of a blue square on white background" (Ho et al., "Denoising Diffusion
Probabilistic Models", NeurIPS 2020, arXiv:2006.11239, with classifier-free guidance,
arXiv:2207.12598, predicting velocity, arXiv:2202.00512); no download. The score is the
error of the noise, so lower is better; how often samples show what their caption claims
stands beside it. Variants:

    configs/scenes.py:quick          few steps of a narrow network: how it works
    configs/scenes.py:held_out       yellow triangles are left out of training

configs/parallel_edits.py and configs/dtiil.py need such a model, and train it.
"""

from ml_collections import ConfigDict

from jaxkd.core.lookup import choose
from jaxkd.recipes import diffusion


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": diffusion.scenes,
        "quick": diffusion.scenes_quick,
        "held_out": held_out,
    }
    return choose(arg, variants, what="configs/scenes.py variant")()


def held_out() -> ConfigDict:
    """One pair of shape and colour is never seen in training."""
    config = diffusion.scenes()
    config.name = "scenes-held-out"
    config.data.held_out = True
    return config
