"""SFTN: a teacher trained with branches of its student (arXiv:2102.07650).

    python -m jaxkd.main --config=configs/sftn.py

The data and the few labelled images of configs/horkd.py. Trains the teacher twice, as
usual and with branches that are the later stages of the student, and students by KD and
by relations from either. No download. docs/cross_resolution.md says what came out.

    configs/sftn.py:quick            one seed, few steps: a look at how it works
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import cross_resolution as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "quick": quick}
    return choose(arg, variants, what="configs/sftn.py variant")()


def embedded() -> ConfigDict:
    """Two teachers, whose students own 15 labelled images per class."""
    config = recipes.glyphs("sftn")
    config.needs.friendly = recipes.friendly(config)
    config.students = configs.students(recipes.sftn_rows())
    config.reference = "kd"
    return config


def quick() -> ConfigDict:
    """The same for a look at how it works: its figures mean nothing."""
    return recipes.shortened(embedded(), recipes.sftn_rows(fade=(1.0, 2.0)))
