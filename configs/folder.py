"""Distillation on your own images, in folders: root/train/<class>/*.jpg, root/val.

    python -m jaxkd.main --config=configs/folder.py --config.data.root=photos \\
        --config.teacher=resnet50 --config.student=resnet18

trains a teacher, then four students (cross entropy, KD, RLD, CRD) over two seeds, and
compares them; the time is that of your images. Any network of docs/networks.md will do.
A teacher that is there already, such as a converted checkpoint, is taken by

    --config.needs.teacher.init_from=runs/resnet50

as docs/own_images.md tells, with a small example. Variants:

    configs/folder.py:teacher        the teacher alone
    configs/folder.py:two_teachers   a second teacher, --config.second; students learn
                                     from the mean of both teachers' probabilities
"""

from ml_collections import ConfigDict, FieldReference

from jaxkd.core import config as configs
from jaxkd.core import lookup


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": students, "teacher": teacher, "two_teachers": two_teachers}
    return lookup.choose(arg, variants, what="variant of configs/folder.py")()


def teacher(name: str = "resnet50") -> ConfigDict:
    """A network trained on labels: SGD, half a cosine, 30 epochs."""
    config = configs.default()
    config.name = "teacher"
    config.model = ConfigDict({"name": name})
    config.data = ConfigDict(
        {"name": "folder", "root": "", "size": 224, "channels": 3, "hold_out": 0.0}
    )
    config.view = ConfigDict({"name": "flip"})
    config.batch_size = 32
    config.eval_batch_size = 64
    config.duration = 30.0
    config.eval_every = config.checkpoint_every = 5.0
    config.optim.update({"lr": 0.02, "nesterov": True, "warmup": 2.0})
    config.optim.weight_decay = 5e-4
    return config


def students() -> ConfigDict:
    """Four students of one teacher, over two seeds."""
    config = _study({"teacher": "resnet50"})
    config.students = configs.students(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd"},
            "rld": {"method": "rld", "loss": {"beta": 2.0, "warmup": 5.0}},
            # Files have no number in memory: the newest images are remembered.
            "crd": {"method": "crd", "loss": {"queue": 4096, "negatives": 1024}},
        }
    )
    return config


def two_teachers() -> ConfigDict:
    """Students of two teachers at once."""
    config = _study({"teacher": "resnet50", "second": "convnext_tiny"})
    config.teachers.combine = "probabilities"
    config.teachers.weights = ConfigDict({"first": 1.0, "second": 1.0})
    config.students = configs.students(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd"},
            "rld": {"method": "rld", "loss": {"beta": 2.0, "warmup": 5.0}},
        }
    )
    return config


def _study(names: dict[str, str]) -> ConfigDict:
    """Returns a run without students whose teachers follow the keys of the top.

    ``config.teacher`` and ``config.student`` are the names of the networks, and a
    teacher's data are the run's: what is set here is set there.
    """
    config = teacher("resnet18")
    config.name = "folder"
    config.seeds = (0, 1)
    config.reference = "kd"
    needs = {
        "first" if len(names) > 1 and key == "teacher" else key: key for key in names
    }
    config.needs = ConfigDict(
        {need: configs.needed(teacher(names[key])) for need, key in needs.items()}
    )
    with config.unlocked():
        config.student = FieldReference("resnet18")
        config.model.name = config.get_ref("student")
        for need, key in needs.items():
            config[key] = FieldReference(names[key])
            config.needs[need].model.name = config.get_ref(key)
            for option in ("root", "size", "channels", "hold_out"):
                config.needs[need].data[option] = config.data.get_ref(option)
    return config
