"""Published recipes of distillation, as data and as configurations.

CIFAR-100 and ImageNet as in mdistiller, RepDistiller and the repositories of RLD and
LSKD: networks, optimiser, schedule, and each method's weights, by pair of networks.
``configs/rld.py`` and ``configs/kd_table.py`` are made of these. None of the figures
that the papers report with them was reproduced here; see ``docs/recipes.md``.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import config as configs

# Students that are trained with the smaller learning rate.
LIGHT = ("MobileNetV2", "ShuffleV1", "ShuffleV2")

# Pairs (teacher, student) of CIFAR-100 with beta of DKD, which RLD takes over here.
# mdistiller's configurations, those of the RLD repository beside them.
BETA = {
    ("resnet32x4", "resnet8x4"): 8.0,
    ("resnet32x4", "ShuffleV1"): 8.0,
    ("resnet32x4", "ShuffleV2"): 8.0,
    ("resnet32x4", "wrn_16_2"): 8.0,
    ("resnet32x4", "wrn_40_2"): 8.0,
    ("wrn_40_2", "ShuffleV1"): 8.0,
    ("ResNet50", "MobileNetV2"): 8.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "MobileNetV2"): 6.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
    ("wrn_40_2", "resnet8x4"): 6.0,
    ("wrn_40_2", "MobileNetV2"): 6.0,
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("resnet110", "resnet20"): 2.0,
}

# The same for ImageNet.
IMAGENET_BETA = {
    ("resnet34_imagenet", "resnet18_imagenet"): 0.5,
    ("resnet50_imagenet", "MobileNetV1"): 2.0,
}

# Weight of ReviewKD. The first is mdistiller's, the second a user's (its issue 39);
# pairs that are not named take the first.
REVIEW_WEIGHT = {
    ("resnet32x4", "resnet8x4"): 5.0,
    ("ResNet50", "MobileNetV2"): 30.0,
    ("resnet34_imagenet", "resnet18_imagenet"): 1.0,
    ("resnet50_imagenet", "MobileNetV1"): 8.0,
}

FEATURE_METHODS = (
    "fitnet",
    "at",
    "nst",
    "pkt",
    "kdsvd",
    "ofd",
    "rkd",
    "vid",
    "sp",
    "crd",
    "reviewkd",
)

# The networks for drawn characters of 16 pixels.
GLYPH_TEACHER = {
    "name": "resnet8",
    "stem": 32,
    "widths": (32, 64, 128),
    "strides": (2, 2, 2),
}
GLYPH_STUDENT = {
    "name": "resnet8",
    "stem": 8,
    "widths": (8, 16, 32),
    "strides": (1, 2, 2),
}

Row = dict[str, Any]

# Standardised logits (arXiv:2403.01427): temperature 2, and nine times the weight.
_STANDARDIZED = {"standardize": True, "temperature": 2.0}


def cifar100(teacher: str, student: str) -> ConfigDict:
    """Makes a run of CIFAR-100 without students: SGD, batch 64, 240 epochs."""
    config = _cifar100_network(teacher)
    need = configs.needed(config)
    config.name = f"cifar100-{teacher}-{student}"
    config.model.name = student
    config.optim.lr = 0.01 if student in LIGHT else 0.05
    config.seeds = (1, 2, 3)
    config.needs = ConfigDict({"teacher": need})
    return config


def _cifar100_network(name: str) -> ConfigDict:
    config = configs.default()
    config.name = "teacher"
    config.model.name = name
    config.data = ConfigDict({"name": "cifar", "classes": 100, "root": "data"})
    config.view = ConfigDict({"name": "crop_flip"})
    config.batch_size = 64
    config.duration = 240.0
    config.eval_every = config.checkpoint_every = 4.0
    config.optim.update(
        {
            "lr": 0.01 if name in LIGHT else 0.05,
            "schedule": "step",
            "milestones": (150.0, 180.0, 210.0),
            "weight_decay": 5e-4,
        }
    )
    return config


def imagenet(teacher: str, student: str) -> ConfigDict:
    """Makes a run of ImageNet without students: SGD, batch 512, 100 epochs."""
    config = configs.default()
    config.name = "teacher"
    config.model.name = teacher
    config.data = ConfigDict({"name": "folder", "root": "data/imagenet", "size": 224})
    config.view = ConfigDict({"name": "flip"})
    config.batch_size = 512
    config.duration = 100.0
    config.dtype = "bfloat16"
    config.optim.update(
        {
            "lr": 0.2,
            "schedule": "step",
            "milestones": (30.0, 60.0, 90.0),
            "weight_decay": 1e-4,
        }
    )
    need = configs.needed(config)
    config.name = f"imagenet-{teacher}-{student}"
    config.model.name = student
    config.needs = ConfigDict({"teacher": need})
    return config


def cifar100_rows(teacher: str, student: str) -> dict[str, Row]:
    """Returns every method with its CIFAR-100 weights: row of the table -> overrides.

    ``mlkd`` compares two views, 480 epochs long, and needs ``config.view.name`` to be
    ``"weak_strong"``.
    """
    beta = BETA.get((teacher, student), 8.0)
    split = {"alpha": 9.0, "beta": 9.0 * beta, **_STANDARDIZED}
    mlkd_lr = 0.01 if student in LIGHT else 0.025
    return {
        "ce": {"method": "supervised"},
        "kd": {"method": "kd"},
        "dkd": {"method": "dkd", "loss": {"beta": beta}},
        "rld": {"method": "rld", "loss": {"beta": beta}},
        "la": {"method": "la"},
        "rc": {"method": "rc"},
        "lr": {"method": "lr"},
        "kd-lskd": {"method": "kd", "loss": {"kd_weight": 9.0, **_STANDARDIZED}},
        "dkd-lskd": {"method": "dkd", "loss": split},
        "rld-lskd": {"method": "rld", "loss": split},
        **feature_rows(REVIEW_WEIGHT.get((teacher, student), 5.0)),
        "mlkd-noaug": {"method": "mlkd_noaug"},
        "mlkd": {"method": "mlkd", "duration": 480.0, "optim": {"lr": mlkd_lr}},
    }


def imagenet_rows(teacher: str, student: str) -> dict[str, Row]:
    """Returns the methods that share the ImageNet recipe of batch 512."""
    pair = (teacher, student)
    half = {"temperature": 1.0, "kd_weight": 0.5, "ce_weight": 0.5}
    split = {
        "temperature": 1.0,
        "beta": IMAGENET_BETA.get(pair, 0.5),
        "warmup": 1.0,
    }
    return {
        "ce": {"method": "supervised"},
        "kd": {"method": "kd", "loss": half},
        "dkd": {"method": "dkd", "loss": split},
        "rld": {"method": "rld", "loss": split},
        "la": {"method": "la", "loss": {"temperature": 1.0}},
        "rc": {"method": "rc", "loss": {"temperature": 1.0}},
        "lr": {"method": "lr"},
        "at": {"method": "at"},
    }


def feature_rows(review_weight: float = 5.0) -> dict[str, Row]:
    """Returns the feature methods with the weights of mdistiller, their defaults."""
    rows: dict[str, Row] = {name: {"method": name} for name in FEATURE_METHODS}
    rows["reviewkd"]["loss"] = {"reviewkd_weight": review_weight}
    return rows


def glyphs(teacher_steps: int, student_steps: int, warmup: int) -> ConfigDict:
    """Makes a run on drawn characters without students; durations in steps."""
    config = configs.default()
    config.name = "teacher"
    config.model = ConfigDict(GLYPH_TEACHER)
    config.data = ConfigDict({"name": "glyph100", "size": 16})
    config.view = ConfigDict({"name": "glyph"})
    config.batch_size = 100
    config.eval_batch_size = 250  # small maps stay in a CPU's cache
    config.unit = "steps"
    config.duration = teacher_steps
    config.eval_every = config.checkpoint_every = 160
    config.optim.update({"lr": 0.4, "nesterov": True, "warmup": 80})
    need = configs.needed(config)
    config.name = "rld"
    config.model = ConfigDict(GLYPH_STUDENT)
    config.seeds = (1, 2, 3)
    config.reference = "kd"
    config.duration = student_steps
    config.eval_every = config.checkpoint_every = 200
    config.optim.warmup = warmup
    config.needs = ConfigDict({"teacher": need})
    return config


def row(method: str, lr: float, weight_decay: float = 5e-4, **loss: Any) -> Row:
    """Describes a student by its method, optimiser and options of the loss."""
    return {
        "method": method,
        "loss": loss,
        "optim": {"lr": lr, "weight_decay": weight_decay},
    }


def glyph_rows() -> dict[str, Row]:
    """Returns the students of ten labelled characters per class.

    Learning rates and weights were chosen on validation images (one seed or two each);
    cross entropy alone has its own, and at double length too.
    """
    return {
        "ce": row("supervised", lr=0.4, weight_decay=4e-3),
        "ce_double": row("supervised", lr=0.3, weight_decay=5e-3) | {"duration": 1200},
        "kd": row("kd", lr=0.5, kd_weight=1.0, ce_weight=1.0, warmup=80),
        "dkd": row("dkd", lr=0.3, beta=4.0, warmup=80),
        "rld": row("rld", lr=0.3, beta=2.0, warmup=80),
        "la": row("la", lr=0.3),
        "rc": row("rc", lr=0.3),
        "lr": row("lr", lr=0.1),
    }
