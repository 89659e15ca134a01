"""RLD beside KD, DKD and plain cross entropy (arXiv:2408.07703, ICCV 2025).

    python -m jaxkd.main --config=configs/rld.py

trains a teacher on 8,000 drawn characters and then 24 students (8 losses, 3 seeds) that
own ten labelled images per class; minutes on two CPU cores, no download. Variants:

    configs/rld.py:digits            scikit-learn's digits: a first look, in minutes
    configs/rld.py:wrong_teacher     the teacher confuses twelve classes consistently
    configs/rld.py:same_data         teacher and students share 4,000 images
    configs/rld.py:cifar100,resnet32x4,resnet8x4
                                     a row of the paper's CIFAR-100 table (240 epochs);
                                     put the official archive into ./data. All pairs:
                                     docs/recipes.md
    configs/rld.py:imagenet,resnet34_imagenet,resnet18_imagenet
                                     the paper's ImageNet run (100 epochs, batch 512);
                                     folders train/ and val/ in ./data/imagenet
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import classification


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
    return choose(variant, variants, what="configs/rld.py variant")(*pair)


def few_labels() -> ConfigDict:
    """A teacher of 8,000 images; students with ten labelled images per class."""
    config = classification.glyphs(teacher_steps=960, student_steps=600, warmup=40)
    config.data.per_class = 10
    config.batches = "per_seed"
    config.students = configs.students(classification.glyph_rows())
    return config


def wrong_teacher() -> ConfigDict:
    """As ``few_labels``, but the teacher learnt wrong labels for twelve classes."""
    config = few_labels()
    config.name = "rld-wrong-teacher"
    config.needs.teacher.data.labels = "shifted"
    config.seeds = (1, 2, 3, 4, 5)
    double = config.students.ce_double
    config.students = configs.students(
        {
            "ce_double": double,
            "kd": classification.row(
                "kd", lr=0.3, kd_weight=1.0, ce_weight=1.0, warmup=80
            ),
            "kd_quarter": classification.row(
                "kd",
                lr=0.3,
                weight_decay=2e-3,
                kd_weight=0.25,
                ce_weight=1.0,
                warmup=80,
            ),
            "dkd": classification.row("dkd", lr=0.3, beta=1.0, warmup=80),
            "dkd_quarter": classification.row(
                "dkd", lr=0.3, beta=1.0, dkd_weight=0.25, warmup=80
            ),
            "rld": classification.row("rld", lr=0.3, beta=1.0, warmup=80),
            "rld_g": classification.row("rld", lr=0.3, beta=1.0, mask="g", warmup=80),
            "la": classification.row("la", lr=0.3),
        }
    )
    return config


def same_data() -> ConfigDict:
    """A teacher stopped early on the very 4,000 images that its students share."""
    config = classification.glyphs(teacher_steps=560, student_steps=800, warmup=40)
    config.name = "rld-same-data"
    for part in (config, config.needs.teacher):
        part.data.train = 4000
    config.batches = "per_seed"
    config.needs.teacher.optim.warmup = 40
    config.students = configs.students(
        {
            "ce": classification.row("supervised", lr=0.6),
            "ce_double": classification.row("supervised", lr=0.6) | {"duration": 1600},
            "kd": classification.row(
                "kd", lr=0.5, kd_weight=1.0, ce_weight=1.0, warmup=80
            ),
            "dkd": classification.row("dkd", lr=0.5, beta=1.0, warmup=80),
            "rld": classification.row("rld", lr=0.5, beta=1.0, warmup=80),
        }
    )
    return config


def cifar100(teacher: str = "resnet32x4", student: str = "resnet8x4") -> ConfigDict:
    """The CIFAR-100 recipe of mdistiller and RLD: SGD, batch 64, 240 epochs."""
    config = classification.cifar100(teacher, student)
    config.name = f"rld-{config.name}"
    return _with(config, classification.cifar100_rows(teacher, student))


def imagenet(
    teacher: str = "resnet34_imagenet", student: str = "resnet18_imagenet"
) -> ConfigDict:
    """The ImageNet recipe of mdistiller and RLD: SGD, batch 512, 100 epochs."""
    config = classification.imagenet(teacher, student)
    config.name = f"rld-{config.name}"
    return _with(config, classification.imagenet_rows(teacher, student))


def _with(config: ConfigDict, rows: dict) -> ConfigDict:
    """Adds those students that the paper's tables compare."""
    names = ("ce", "kd", "dkd", "rld", "la", "rc", "lr")
    config.students = configs.students({name: rows[name] for name in names})
    config.reference = "kd"
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
    config.students = configs.students(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd", "loss": {"kd_weight": 1.0, "ce_weight": 1.0}},
            "dkd": {"method": "dkd", "loss": {"beta": 2.0, "warmup": 2.0}},
            "rld": {"method": "rld", "loss": {"beta": 2.0, "warmup": 2.0}},
        }
    )
    return config
