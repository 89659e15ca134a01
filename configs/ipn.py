"""IPN: faces of mixed resolution, a network of wavelets, a teacher's maps.

    python -m jaxkd.main --config=configs/ipn.py

(arXiv:2303.08665, as far as it is public.) A teacher learns drawn faces of 32 pixels;
students see each face reduced to a random side from 6 to 32 by a random kernel,
blurred and noisy, and enlarged again. Compared are a strided network and WaveResNet,
each with and without the teacher's embedding and maps; faces of unseen people are
verified at 6 pixels, and one sharp face with one at each side. Minutes on two CPU
cores, no download. docs/recognition.md says what came out.

    configs/ipn.py:quick             few steps: a look at how it works
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import recognition as recipes

SIDES = (6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": lambda: recipes.mixed_faces(32, SIDES),
        "coarse": coarse,
        "quick": quick,
    }
    return choose(arg, variants, what="configs/ipn.py variant")()


def coarse() -> ConfigDict:
    """Networks that shrink their maps all at once, in the first stage."""
    config = recipes.mixed_faces(32, SIDES, strides=(8, 2, 1))
    config.name = "ipn-coarse"
    config.seeds = (1, 2, 3, 4, 5)
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = recipes.mixed_faces(32, (8, 16, 32))
    config.seeds = (1,)
    for part in (config, config.needs.teacher):
        part.data.update({"per_identity": 8, "pairs": 600})
        part.duration = part.eval_every = part.checkpoint_every = 20.0
        part.optim.warmup = 2.0
    rows = {name: config.students[name].to_dict() for name in ("strided", "ipn")}
    config.students = configs.students(rows)
    return config
