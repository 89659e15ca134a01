"""Face forgery with meaning: SO-DFD's label graph (arXiv:2405.08487, IEEE TIFS 2025).

    python -m jaxkd.main --config=configs/face_forgery.py

draws faces, forges one attribute of half of them, and trains four heads on one network,
five seeds each: real or fake, the method, independent labels, consistent labels. Tested
on methods that were trained on and on others, and (``no_*``) on attributes that were
left out of training. A quarter of an hour on two CPU cores, no download; results:
docs/face_forgery.md. Variants:

    configs/face_forgery.py:weighting   fixed weights of the levels, by uncertainty, and
                                        Auto-lambda, on consistent labels
    configs/face_forgery.py:official    SO-Xception on one's own faces in ./data/ffsc:
                                        299 pixels, Adam 1e-4, batch 32, 36 epochs. Not
                                        run here; for an accelerator of 16 GB or more
    configs/face_forgery.py:quick       one seed, seconds: checks that all works
"""

from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose

# 20,020 parameters, for images of 32 pixels.
MICRO: dict[str, Any] = {
    "name": "resnet8",
    "stem": 8,
    "widths": (8, 16, 32),
}
HELD_OUT = ("pose",)
TASK_WEIGHTS = {"lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "warmup": 0}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": embedded,
        "weighting": weighting,
        "official": official,
        "quick": quick,
    }
    return choose(arg, variants, what="configs/face_forgery.py variant")()


def embedded() -> ConfigDict:
    """Four heads, and two attributes held out, on drawn faces."""
    config = _small("face-forgery")
    heads = ("binary", "multiclass", "multilabel", "graph")
    students = {head: {"loss": {"head": head}} for head in heads}
    for attribute in HELD_OUT:
        for head in ("binary", "graph"):
            name = f"{head}_no_{attribute}"
            students[name] = {"loss": {"head": head, "hold_out": attribute}}
    config.students = configs.students(students)
    config.reference = "binary"
    return config


def weighting() -> ConfigDict:
    """How the levels of the graph are weighted."""
    config = _small("face-forgery-weighting")
    config.students = configs.students(
        {
            "fixed": {"loss": {"weighting": "fixed"}},
            "uncertainty": {"loss": {"weighting": "uncertainty"}},
            "auto": {
                "loss": {"weighting": "auto"},
                "optimizers": {"task_weights": TASK_WEIGHTS},
            },
        }
    )
    config.reference = "fixed"
    return config


def quick() -> ConfigDict:
    """All heads and weightings for a few steps."""
    config = embedded()
    config.name = "face-forgery-quick"
    students = {name: dict(one) for name, one in config.students.items()}
    students |= {name: dict(one) for name, one in weighting().students.items()}
    kept = ("binary", "multiclass", "multilabel", "graph", "graph_no_pose", "auto")
    config.students = configs.students({name: students[name] for name in kept})
    config.data.update({"train": 128, "test": 1, "size": 16})
    config.seeds = (1,)
    config.duration = config.eval_every = config.checkpoint_every = 6
    return config


def _small(name: str) -> ConfigDict:
    config = configs.default()
    config.name = name
    config.method = "face_forgery"
    config.loss = ConfigDict({"head": "graph", "weighting": "fixed", "hold_out": ""})
    config.model = ConfigDict(MICRO)
    config.data = ConfigDict({"name": "forged_faces", "size": 32, "train": 1200})
    config.data.test = 20
    config.view = ConfigDict({"name": "plain"})
    config.seeds = (1, 2, 3, 4, 5)
    config.batch_size = 32
    config.eval_batch_size = 100
    config.unit = "steps"
    config.duration = 500
    config.eval_every = config.checkpoint_every = 250
    config.optim.update({"name": "adam", "lr": 3e-3, "weight_decay": 0.0, "warmup": 30})
    return config


def official() -> ConfigDict:
    """The published recipe of SO-Xception on one's own faces."""
    config = configs.default()
    config.name = "so-xception"
    config.method = "face_forgery"
    config.loss = ConfigDict({"weighting": "auto", "negative_weights": True})
    config.model = ConfigDict({"name": "xception"})
    config.data = ConfigDict(
        {
            **{"name": "face_forgery", "root": "data/ffsc", "graph": "ffsc"},
            **{"train": "", "test": "", "methods": "", "size": 299},
        }
    )
    config.view = ConfigDict({"name": "face_quality", "probability": 0.3})
    config.batch_size = config.eval_batch_size = 32
    config.duration = 36.0
    config.optim.update(
        {
            **{"name": "adam", "lr": 1e-4, "weight_decay": 0.0, "warmup": 0.0},
            **{"schedule": "step", "milestones": tuple(range(5, 36, 5)), "factor": 0.5},
        }
    )
    config.optimizers = ConfigDict({"task_weights": TASK_WEIGHTS})
    return config
