"""RLD beside KD, DKD and plain cross entropy (arXiv:2408.07703, ICCV 2025).

    python -m jaxkd.main --config=configs/rld.py

trains a teacher on 8,000 drawn characters and then 24 students (8 losses, 3 seeds) that
own ten labelled images per class; minutes on two CPU cores, no download. Variants:

    configs/rld.py:digits            scikit-learn's digits: a first look, in minutes
    configs/rld.py:wrong_teacher     the teacher confuses twelve classes consistently
    configs/rld.py:same_data         teacher and students share 4,000 images
    configs/rld.py:curve,8           the teacher confuses that many classes: a point of
                                     a curve over 0, 4, 8 and 12, see below
    configs/rld.py:cifar100,resnet32x4,resnet8x4
                                     a row of the paper's CIFAR-100 table (240 epochs);
                                     put the official archive into ./data. All pairs:
                                     docs/recipes.md
    configs/rld.py:imagenet,resnet34_imagenet,resnet18_imagenet
                                     the paper's ImageNet run (100 epochs, batch 512);
                                     folders train/ and val/ in ./data/imagenet

The curve is four runs of one recipe, that of ``:wrong_teacher``, and one page with the
students' accuracy against their teacher's:

    python -m jaxkd.main --config=rld:curve,0 --workdir=runs/curve/0
    python -m jaxkd.main --config=rld:curve,4 --workdir=runs/curve/4
    python -m jaxkd.main --config=rld:curve,8 --workdir=runs/curve/8
    python -m jaxkd.main --config=rld:curve,12 --workdir=runs/curve/12
    python -m jaxkd.main --mode=compare --inputs='runs/curve/*' --output=curve.html

Registered before any of these runs. RLD's argument: KD and DKD match the teacher's
whole distribution, its confident mistakes included, while RLD leaves out the label and
all classes that the teacher ranks above it, and on examples on which the teacher is
right it *is* DKD. Hence:

1. The teacher has 92 % with no wrong class and loses about a point with each, down to
   80 or 81 at 12.
2. At 0, RLD and DKD differ by less than a point, and neither beats KD by more.
3. RLD minus the better of KD and DKD grows with every step of N and is positive in at
   least four of five seeds at 8 and at 12; at 4 it is between 0 and 3 points.
4. LA, which repairs the order but copies the rest with wrong confidence and has no
   cross entropy, lies below RLD at every N.
5. KD and DKD fall below cross entropy of double length (``ce_double``) between 8 and
   12; RLD does not by more than its standard error.
6. ``ce`` and ``ce_double`` do not see the teacher: their scores are equal in all runs.

Not blind: the two ends were seen before, 12 as ``:wrong_teacher`` (RLD 4.0 ahead of
DKD at a quarter) and 0 as the first study of this file, with other weights (RLD, DKD
and KD within half a point). Only 4 and 8 are new. It would speak against the argument
if RLD were not ahead at 8, or if its lead did not grow.

What came out: all but two things; the lead does not grow beyond 8, and DKD is 1.1 above
KD at 0; docs/results.md.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose, variant
from jaxkd.recipes import classification


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": few_labels,
        "digits": digits,
        "wrong_teacher": wrong_teacher,
        "same_data": same_data,
        "curve": curve,
        "cifar100": cifar100,
        "imagenet": imagenet,
    }
    return variant(arg, variants, what="configs/rld.py")


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


def curve(wrong: str = "12") -> ConfigDict:
    """One point of the curve: the teacher learnt wrong labels for so many classes."""
    points = {"0": 0, "4": 4, "8": 8, "12": 12}
    classes = choose(wrong, points, what="wrong classes of configs/rld.py:curve")
    config = wrong_teacher()
    config.name = f"rld-curve-{classes}"
    data = config.needs.teacher.data
    if classes:
        data.shifted = classes
    else:
        data.labels = "clean"
    rows = config.students
    config.students = configs.students(
        {
            "ce": classification.glyph_rows()["ce"],
            **{name: rows[name] for name in ("ce_double", "kd", "dkd", "rld", "la")},
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
