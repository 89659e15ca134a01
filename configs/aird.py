"""AIRD: distil instances and relations, then adapt batch norm (arXiv:2409.02049).

    python -m jaxkd.main --config=configs/aird.py

The data, the teacher and the few labelled images of configs/horkd.py. Trains three
students per seed (cross entropy, KD, AIRD) and tests each as it is and with batch
normalisation that adapts to the test images: plain, disturbed, and disturbed and sorted
by class. No download; its weights are guesses. docs/cross_resolution.md says what came
out.

    configs/aird.py:quick            one seed, few steps: a look at how it works
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import cross_resolution as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "quick": quick}
    return choose(arg, variants, what="configs/aird.py variant")()


def embedded() -> ConfigDict:
    """AIRD beside KD, of 15 labelled images per class."""
    config = recipes.glyphs("aird")
    config.students = configs.students(recipes.aird_rows())
    config.reference = "kd"
    return config


def quick() -> ConfigDict:
    """The same for a look at how it works: its figures mean nothing."""
    return recipes.shortened(embedded(), recipes.aird_rows(fade=(1.0, 2.0)))
