"""Every distillation method beside the others: a column of the benchmark's table.

    python -m jaxkd.main --config=configs/kd_table.py

trains a teacher and 21 methods over two seeds on drawn characters, as configs/rld.py
does for a few of them; 15 minutes on two CPU cores, no download. Only the logit methods
were tuned for it (see configs/rld.py); the feature methods have the weights of
mdistiller, made for other networks, and one learning rate: docs/recipes.md says how
they fare. Variants:

    configs/kd_table.py:cifar100,resnet32x4,resnet8x4
                                     all methods with the published weights, 240 epochs
                                     (mlkd 480), three seeds, in one run; put the
                                     official archive into ./data. All pairs:
                                     docs/recipes.md
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import variant
from jaxkd.recipes import classification


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": glyphs, "cifar100": cifar100}
    return variant(arg, variants, what="configs/kd_table.py")


def cifar100(teacher: str = "resnet32x4", student: str = "resnet8x4") -> ConfigDict:
    """All methods on CIFAR-100 with their published weights."""
    config = classification.cifar100(teacher, student)
    config.name = f"kd-table-{config.name}"
    config.view = ConfigDict({"name": "weak_strong"})
    config.students = configs.students(classification.cifar100_rows(teacher, student))
    config.reference = "kd"
    return config


def glyphs() -> ConfigDict:
    """All methods but ``mlkd``, whose strong view is made for photographs."""
    config = classification.glyphs(teacher_steps=960, student_steps=400, warmup=40)
    config.name = "kd-table"
    config.data.per_class = 10
    config.batches = "per_seed"
    config.seeds = (1, 2)
    rows = classification.glyph_rows()
    for name, row in classification.feature_rows().items():
        rows[name] = classification.row(name, lr=0.3, **row.get("loss", {}))
    rows["crd"]["loss"] = {"negatives": 512}
    rows["reviewkd"]["loss"]["warmup"] = 80
    rows["rld+crd"] = classification.row(
        "rld+crd", lr=0.3, rld=rows["rld"]["loss"], crd=rows["crd"]["loss"]
    )
    rows["mlkd-noaug"] = classification.row("mlkd_noaug", lr=0.3)
    rows["ce_double"]["duration"] = 2 * config.duration
    config.students = configs.students(rows)
    return config
