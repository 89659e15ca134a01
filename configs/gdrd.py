"""GDRD: features of a generative teacher, decisions of a discriminative one.

    python -m jaxkd.main --config=configs/gdrd.py

(arXiv:2409.06371.) The data and the few labelled images of configs/horkd.py. Trains the
classifier and a conditional denoiser on 10,000 images of 32 pixels; for each seed a
backbone for 8 pixels that predicts the denoiser's features; and students whose later
stages learn on that backbone, on a frozen random one, and on one that is free. Some
sixteen minutes on two CPU cores, no download. docs/cross_resolution.md says what came
out.

    configs/gdrd.py:quick            one seed, few steps: a look at how it works
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import cross_resolution as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "quick": quick}
    return choose(arg, variants, what="configs/gdrd.py variant")()


def embedded() -> ConfigDict:
    """Backbones from a denoiser, beside KD, of 15 labelled images per class."""
    config = recipes.gdrd(recipes.glyphs("gdrd"))
    config.students = configs.students(recipes.gdrd_rows())
    config.reference = "kd"
    return config


def quick() -> ConfigDict:
    """The same for a look at how it works: its figures mean nothing."""
    return recipes.shortened(embedded(), recipes.gdrd_rows(fade=(1.0, 2.0)))
