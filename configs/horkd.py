"""HORKD: a student of 8-pixel images learns from a teacher of 32-pixel ones.

    python -m jaxkd.main --config=configs/horkd.py

(arXiv:2409.05384.) Somebody hands us a good classifier of 32-pixel images, trained on
10,000 drawn characters; we own 15 labelled images per class and need a network for 8
pixels. Trains the teacher, an assistant for each of three seeds (the teacher's
architecture and variables, on 8 pixels) and 8 students per seed: cross entropy, KD,
relations of order 1, 1-2 and 1-3, and with the assistant the last, KD, and both. Twelve
minutes on two CPU cores, no download. docs/cross_resolution.md says what came out.

    configs/horkd.py:long            60 epochs instead of 32; teacher and assistant
                                     longer, too
    configs/horkd.py:quick           one seed, few steps: a look at how it works
    configs/horkd.py:hr_small        the assistant has the student's size and sees 32
                                     pixels
    configs/horkd.py:mid             the assistant is as large as the teacher and sees
                                     16 pixels
    configs/horkd.py:joint           the student is its own assistant: the same
                                     parameters see 32 pixels, too
    configs/horkd.py:cifar100,resnet32x4,resnet8x4,8
                                     CIFAR-100 at 8 (or 16) pixels, recipe of the
                                     CIFAR benchmarks (240 epochs); put the official
                                     archive into ./data
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import variant
from jaxkd.recipes import cross_resolution as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": few_labels,
        "long": long,
        "quick": quick,
        "hr_small": hr_small,
        "mid": mid,
        "joint": joint,
        "cifar100": cifar100,
    }
    return variant(arg, variants, what="configs/horkd.py")


def few_labels(
    name: str = "horkd",
    epochs: float = recipes.EPOCHS,
    assistant_epochs: float = recipes.ASSISTANT_EPOCHS,
    teacher_epochs: float = recipes.TEACHER_EPOCHS,
) -> ConfigDict:
    """A teacher of 10,000 images; students with 15 labelled images per class."""
    config = recipes.glyphs(name, epochs, teacher_epochs)
    config.needs.assistant = recipes.assistant(config, epochs=assistant_epochs)
    config.students = configs.students(recipes.horkd_rows(recipes.fading(epochs)))
    config.reference = "kd"
    return config


def long() -> ConfigDict:
    """The same with longer training."""
    return few_labels("horkd-long", *recipes.LONG)


def hr_small() -> ConfigDict:
    """An assistant with the student's capacity and the teacher's images."""
    config = recipes.glyphs("horkd-hr-small")
    config.needs.assistant = recipes.assistant(
        config,
        {"name": "lowres_student", "strides": (4, 2, 2)},
        start_from="",
    )
    return _with_assistant(config)


def mid() -> ConfigDict:
    """An assistant that sees images of 16 pixels, half way in ratio."""
    config = recipes.glyphs("horkd-mid")
    view = {"name": "low", "base": config.view.to_dict(), "side": 16, "field": "mid"}
    for part in (config, config.needs.teacher):
        part.view = ConfigDict(view)
    config.needs.assistant = recipes.assistant(
        config, {"name": "lowres_assistant", "input": "mid"}
    )
    return _with_assistant(config)


def joint() -> ConfigDict:
    """No run of an assistant: student and assistant share their parameters."""
    config = recipes.glyphs("horkd-joint")
    config.students = configs.students(recipes.joint_rows())
    config.reference = "kd"
    return config


def quick() -> ConfigDict:
    """The whole chain in a minute or two; its figures mean nothing."""
    rows = recipes.horkd_rows(fade=(1.0, 2.0))
    names = ("ce", "kd", "orders123_assistant")
    return recipes.shortened(few_labels(), {name: rows[name] for name in names})


def _with_assistant(config: ConfigDict) -> ConfigDict:
    rows = recipes.horkd_rows()
    names = ("ce", "kd", "orders123", "kd_assistant", "orders123_assistant")
    config.students = configs.students({name: rows[name] for name in names})
    config.reference = "kd"
    return config


def cifar100(
    teacher: str = "resnet32x4", student: str = "resnet8x4", side: str = "8"
) -> ConfigDict:
    """CIFAR-100 reduced to 8 or 16 pixels; nothing of this has been run here."""
    return recipes.cifar100(teacher, student, int(side))
