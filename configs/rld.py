"""RLD beside KD, DKD and plain cross entropy (arXiv:2408.07703, ICCV 2025).

    python -m jaxkd.main --config=configs/rld.py

trains a teacher on 8,000 drawn characters and then 24 students (8 losses, 3 seeds) that
own ten labelled images per class; minutes on two CPU cores, no download. Variants:

    configs/rld.py:digits            scikit-learn's digits, half a minute: a first look
    configs/rld.py:wrong_teacher     the teacher confuses twelve classes consistently
    configs/rld.py:same_data         teacher and students share 4,000 images
    configs/rld.py:cifar100,resnet32x4,resnet8x4
                                     the paper's table 1 (CIFAR-100, 240 epochs); put
                                     the official archive into ./data. Other pairs:
                                     resnet56,resnet20  resnet110,resnet32
                                     resnet110,resnet20
    configs/rld.py:imagenet,resnet34_imagenet,resnet18_imagenet
                                     the paper's ImageNet run (100 epochs, batch 512);
                                     folders train/ and val/ in ./data/imagenet
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs

# beta of DKD, which RLD takes over, by (teacher, student): the published CIFAR-100
# recipes of DKD.
BETA = {
    ("resnet32x4", "resnet8x4"): 8.0,
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("resnet110", "resnet20"): 2.0,
}

# The same for ImageNet.
IMAGENET_BETA = {
    ("resnet34_imagenet", "resnet18_imagenet"): 0.5,
    ("resnet50_imagenet", "MobileNetV1"): 2.0,
}

TEACHER = {"name": "resnet8", "stem": 32, "widths": (32, 64, 128), "strides": (2, 2, 2)}
STUDENT = {"name": "resnet8", "stem": 8, "widths": (8, 16, 32), "strides": (1, 2, 2)}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variant, *pair = arg.split(",")
    variants = {
        "": few_labels,
        "digits": digits,
        "wrong_teacher": wrong_teacher,
        "same_data": same_data,
        "cifar100": cifar100,
        "imagenet": imagenet,
    }
    if variant not in variants:
        raise ValueError(
            f"configs/rld.py has no variant {variant!r}, wanted one of "
            f"{', '.join(repr(name) for name in variants)}."
        )
    return variants[variant](*pair)


def few_labels() -> ConfigDict:
    """A teacher of 8,000 images; students with ten labelled images per class."""
    config = _glyphs(teacher_steps=960, student_steps=800, warmup=40)
    config.data.per_class = 10
    config.batches = "per_seed"
    config.students = configs.rows(
        {
            "ce": _student("supervised", lr=0.4, weight_decay=4e-3),
            "ce_double": _student("supervised", lr=0.3, weight_decay=5e-3)
            | {"duration": 1600},
            "kd": _student("kd", lr=0.5, weight=1.0, ce_weight=1.0, warmup=80),
            "dkd": _student("dkd", lr=0.3, beta=4.0, warmup=80),
            "rld": _student("rld", lr=0.3, beta=2.0, warmup=80),
            "la": _student("la", lr=0.3),
            "rc": _student("rc", lr=0.3),
            "lr": _student("lr", lr=0.1),
        }
    )
    return config


def wrong_teacher() -> ConfigDict:
    """As ``few_labels``, but the teacher learnt wrong labels for twelve classes."""
    config = few_labels()
    config.name = "rld-wrong-teacher"
    config.needs.teacher.data.labels = "shifted"
    config.seeds = (1, 2, 3, 4, 5)
    double = config.students.ce_double
    config.students = configs.rows(
        {
            "ce_double": double,
            "kd": _student("kd", lr=0.3, weight=1.0, ce_weight=1.0, warmup=80),
            "kd_quarter": _student(
                "kd", lr=0.3, weight_decay=2e-3, weight=0.25, ce_weight=1.0, warmup=80
            ),
            "dkd": _student("dkd", lr=0.3, beta=1.0, warmup=80),
            "dkd_quarter": _student("dkd", lr=0.3, beta=1.0, weight=0.25, warmup=80),
            "rld": _student("rld", lr=0.3, beta=1.0, warmup=80),
            "rld_g": _student("rld", lr=0.3, beta=1.0, mask="g", warmup=80),
            "la": _student("la", lr=0.3),
        }
    )
    return config


def same_data() -> ConfigDict:
    """A teacher stopped early on the very 4,000 images that its students share."""
    config = _glyphs(teacher_steps=560, student_steps=800, warmup=40)
    config.name = "rld-same-data"
    for part in (config, config.needs.teacher):
        part.data.train = 4000
    config.batches = "per_seed"
    config.needs.teacher.optim.warmup = 40
    config.students = configs.rows(
        {
            "ce": _student("supervised", lr=0.6),
            "ce_double": _student("supervised", lr=0.6) | {"duration": 1600},
            "kd": _student("kd", lr=0.5, weight=1.0, ce_weight=1.0, warmup=80),
            "dkd": _student("dkd", lr=0.5, beta=1.0, warmup=80),
            "rld": _student("rld", lr=0.5, beta=1.0, warmup=80),
        }
    )
    return config


def cifar100(teacher: str = "resnet32x4", student: str = "resnet8x4") -> ConfigDict:
    """The CIFAR-100 recipe of mdistiller and RLD: SGD, batch 64, 240 epochs."""
    config = _cifar100(teacher)
    beta = BETA.get((teacher, student), 8.0)
    need = configs.needed(config)
    config.name = f"rld-cifar100-{teacher}-{student}"
    config.model.name = student
    config.seeds = (1, 2, 3)
    config.reference = "kd"
    config.needs = ConfigDict({"teacher": need})
    config.students = configs.rows(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd"},
            "dkd": {"method": "dkd", "loss": {"beta": beta}},
            "rld": {"method": "rld", "loss": {"beta": beta}},
            "la": {"method": "la"},
            "rc": {"method": "rc"},
            "lr": {"method": "lr"},
        }
    )
    return config


def imagenet(
    teacher: str = "resnet34_imagenet", student: str = "resnet18_imagenet"
) -> ConfigDict:
    """The ImageNet recipe of mdistiller and RLD: SGD, batch 512, 100 epochs."""
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
    config.name = f"rld-imagenet-{teacher}-{student}"
    config.model.name = student
    config.reference = "kd"
    config.needs = ConfigDict({"teacher": need})
    beta = {"temperature": 1.0, "beta": IMAGENET_BETA.get((teacher, student), 0.5)}
    half = {"temperature": 1.0, "weight": 0.5, "ce_weight": 0.5}
    config.students = configs.rows(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd", "loss": half},
            "dkd": {"method": "dkd", "loss": beta | {"warmup": 1.0}},
            "rld": {"method": "rld", "loss": beta | {"warmup": 1.0}},
        }
    )
    return config


def digits() -> ConfigDict:
    """A small teacher and four smaller students on scikit-learn's 8x8 digits."""
    config = configs.default()
    config.name = "teacher"
    config.model = ConfigDict({"name": "resnet8", "strides": (1, 2, 1)})
    config.data = ConfigDict({"name": "digits"})
    config.view = ConfigDict({"name": "crop_flip", "pad": 1, "flip": False})
    config.batch_size = 64
    config.duration = 12.0
    config.eval_every = config.checkpoint_every = 4.0
    config.optim.update({"nesterov": True, "warmup": 1.0})
    need = configs.needed(config)
    config.name = "rld-digits"
    config.model = ConfigDict(
        {"name": "resnet8", "stem": 4, "widths": (4, 8, 16), "strides": (1, 2, 1)}
    )
    config.seeds = (1, 2, 3)
    config.batches = "per_seed"
    config.reference = "kd"
    config.needs = ConfigDict({"teacher": need})
    config.students = configs.rows(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd", "loss": {"weight": 1.0, "ce_weight": 1.0}},
            "dkd": {"method": "dkd", "loss": {"beta": 2.0, "warmup": 2.0}},
            "rld": {"method": "rld", "loss": {"beta": 2.0, "warmup": 2.0}},
        }
    )
    return config


def _cifar100(model: str) -> ConfigDict:
    config = configs.default()
    config.name = "teacher"
    config.model.name = model
    config.data = ConfigDict({"name": "cifar", "classes": 100, "root": "data"})
    config.view = ConfigDict({"name": "crop_flip"})
    config.batch_size = 64
    config.duration = 240.0
    config.eval_every = config.checkpoint_every = 4.0
    config.optim.update(
        {
            "lr": 0.05,
            "schedule": "step",
            "milestones": (150.0, 180.0, 210.0),
            "weight_decay": 5e-4,
        }
    )
    return config


def _glyphs(teacher_steps: int, student_steps: int, warmup: int) -> ConfigDict:
    config = configs.default()
    config.name = "teacher"
    config.model = ConfigDict(TEACHER)
    config.data = ConfigDict({"name": "glyph100", "size": 16})
    config.view = ConfigDict({"name": "glyph"})
    config.batch_size = 100
    config.unit = "steps"
    config.duration = teacher_steps
    config.eval_every = config.checkpoint_every = 160
    config.optim.update({"lr": 0.4, "nesterov": True, "warmup": 80})
    need = configs.needed(config)
    config.name = "rld"
    config.model = ConfigDict(STUDENT)
    config.seeds = (1, 2, 3)
    config.reference = "kd"
    config.duration = student_steps
    config.eval_every = config.checkpoint_every = 200
    config.optim.warmup = warmup
    config.needs = ConfigDict({"teacher": need})
    return config


def _student(method: str, lr: float, weight_decay: float = 5e-4, **loss) -> dict:
    return {
        "method": method,
        "loss": loss,
        "optim": {"lr": lr, "weight_decay": weight_decay},
    }
