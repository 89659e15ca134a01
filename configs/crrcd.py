"""CRRCD: a student of 8-pixel images learns relations by contrast (arXiv:2409.02555).

    python -m jaxkd.main --config=configs/crrcd.py

The data, the teacher and the few labelled images of configs/horkd.py. Trains five
students per seed: cross entropy, KD, HORKD's orders 1-3, and relational contrast alone
and with KD. No download; its weights are guesses. docs/cross_resolution.md says what
came out.

    configs/crrcd.py:quick           one seed, few steps: a look at how it works
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import cross_resolution as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "quick": quick}
    return choose(arg, variants, what="configs/crrcd.py variant")()


def embedded() -> ConfigDict:
    """Contrast beside KD and HORKD, of 15 labelled images per class."""
    config = recipes.glyphs("crrcd")
    config.students = configs.students(recipes.crrcd_rows())
    config.reference = "kd"
    return config


def quick() -> ConfigDict:
    """The same for a look at how it works: its figures mean nothing."""
    return recipes.shortened(embedded(), recipes.crrcd_rows(fade=(1.0, 2.0)))
