"""Where a picture and its caption contradict each other: D-TIIL on drawn scenes.

    python -m jaxkd.main --config=configs/dtiil.py

finds the region and the word in which a scene and its caption differ with D-TIIL (Huang
et al., "Exposing Text-Image Inconsistency Using Diffusion Models", ICLR 2024,
arXiv:2404.18033), and beside it by one stage (DiffEdit, arXiv:2210.11427), by
cross-attention and by boxes; the truth is known exactly. Controls: an untrained model,
captions with two wrong words and with none right. The scene model (configs/scenes.py)
is trained first and kept in the user's cache folder; no download. Variants:

    configs/dtiil.py:quick           few pairs, a barely trained narrow model
    configs/dtiil.py:edited          the final mask on the edited image, as in the
                                     published code

The paper's tables were not accessible, so nothing is compared with them.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.pipelines import dtiil
from jaxkd.recipes import diffusion


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "quick": quick, "edited": edited}
    return choose(arg, variants, what="configs/dtiil.py variant")()


def embedded() -> ConfigDict:
    """Three seeds, 12 pairs each."""
    config = dtiil.default()
    config.needs.scenes = configs.needed(diffusion.scenes())
    return config


def quick() -> ConfigDict:
    """How it works; the model has learnt next to nothing."""
    config = dtiil.default()
    config.name = "dtiil-quick"
    config.needs.scenes = configs.needed(diffusion.scenes_quick())
    config.seeds, config.pairs, config.validation = (0,), 4, 2
    config.controls = ()
    config.settings.update({"align_steps": 3, "samples": 2, "edit_steps": 3})
    config.settings.update({"mask_steps": 4, "draws": 4, "align_batch": 2})
    return config


def edited() -> ConfigDict:
    """As published, the final difference is taken on the edited image."""
    config = embedded()
    config.name, config.settings.latents = "dtiil-edited", "edited"
    return config
