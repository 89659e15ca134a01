"""Face forgery with meaning: SO-DFD's label graph (arXiv:2405.08487, IEEE TIFS 2025).

    python -m jaxkd.main --config=configs/face_forgery.py

draws faces, forges one attribute of half of them, and trains four heads on one network,
five seeds each: real or fake, the method, independent labels, consistent labels; and
``joint``, consistent labels by cosines with a table of label embeddings and the
fidelity loss, as SJEDD (arXiv:2408.16305). Tested on methods that were trained on and
on others, and (``no_*``) on attributes that were left out of training. Ten minutes
on two CPU cores, no download; results: docs/face_forgery.md. Variants:

    configs/face_forgery.py:weighting   fixed weights of the levels, by uncertainty, and
                                        Auto-lambda, on consistent labels
    configs/face_forgery.py:official    SO-Xception on one's own faces in ./data/ffsc:
                                        299 pixels, Adam 1e-4, batch 32, 36 epochs. Not
                                        run here; for an accelerator of 16 GB or more
    configs/face_forgery.py:official_clip
                                        SO-ViT-B on the same, 224 pixels, Adam 1e-6,
                                        from CLIP's weights (config.init_from): see
                                        python -m jaxkd.convert.clip --help. Not run
    configs/face_forgery.py:official_joint
                                        SJEDD on the same, AdamW 6e-7, 20 epochs, from
                                        CLIP's weights and texts. Not run. One cosine
                                        over the training; the published rate falls and
                                        rises every five epochs
    configs/face_forgery.py:quick       one seed, seconds: checks that all works
"""

from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.models.stable_diffusion.clip import MEAN, STD

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
        "official_clip": official_clip,
        "official_joint": official_joint,
        "quick": quick,
    }
    return choose(arg, variants, what="configs/face_forgery.py variant")()


def embedded() -> ConfigDict:
    """Four heads, the joint embedding, and an attribute held out, on drawn faces."""
    config = _small("face-forgery")
    heads = ("binary", "multiclass", "multilabel", "graph")
    students: dict[str, Any] = {head: {"loss": {"head": head}} for head in heads}
    students["joint"] = {
        "loss": {"kind": "fidelity"},
        "model": {**MICRO, "name": "joint_resnet8", "width": 32},  # 21,077 parameters
    }
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
    kept = ("binary", "multiclass", "multilabel", "graph", "joint", "graph_no_pose")
    kept += ("auto",)
    config.students = configs.students({name: students[name] for name in kept})
    config.data.update({"train": 128, "test": 1, "size": 16})
    config.seeds = (1,)
    config.duration = config.eval_every = config.checkpoint_every = 6
    config.optim.warmup = 1
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


def official_clip() -> ConfigDict:
    """The published recipe of SO-ViT-B on one's own faces."""
    config = official()
    config.name = "so-vit-b"
    config.model = ConfigDict({"name": "clip_vit_b32"})
    config.data.update({"size": 224, "mean": MEAN, "std": STD})
    config.optim.lr = 1e-6
    config.optimizers.task_weights.lr = 1e-4
    return config


def official_joint() -> ConfigDict:
    """The published recipe of SJEDD on one's own faces."""
    config = official_clip()
    config.name = "sjedd"
    config.loss.update({"kind": "fidelity", "root_bias": False})
    config.model = ConfigDict({"name": "clip_vit_b32_joint"})
    config.view.probability = 0.36
    config.duration = 20.0
    config.optim.update({"name": "adamw", "lr": 6e-7, "weight_decay": 1e-3})
    config.optim.update({"schedule": "cosine"})
    config.optimizers.task_weights.lr = 1e-3
    return config
