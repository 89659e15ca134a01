"""Students of 8-pixel faces beside a teacher of 64-pixel ones: verification.

    python -m jaxkd.main --config=configs/faces.py

Trains a teacher by ArcFace on drawn faces of 200 people, and five students by three
seeds that see 8 pixels: from labels, from the teacher's directions or relations
(arXiv:1904.05068), or from both. Pairs of 50 people who were in no training image are
verified in ten folds. Minutes on two CPU cores, no download. docs/recognition.md says
what came out.

    configs/faces.py:16              students see 16 pixels
    configs/faces.py:quick           few steps: a look at how it works
    configs/faces.py:lfw             a folder of identities in data/train, LFW with its
                                     pairs.txt in data; 112 pixels to 16. Never run here
    configs/faces.py:uccs            a folder of identities in data/uccs, the 180 with
                                     the most images, at 16 pixels. Never run here
    configs/faces.py:cub             CUB-200-2011 in data, 100 kinds for training and
                                     100 for retrieval, triplets. Never run here
    configs/faces.py:cars196         the same for Cars196
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import recognition as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": lambda: recipes.faces(8),
        "16": lambda: recipes.faces(16),
        "quick": quick,
        "lfw": lfw,
        "uccs": uccs,
        "cub": lambda: retrieval("cub"),
        "cars196": lambda: retrieval("cars196"),
    }
    return choose(arg, variants, what="configs/faces.py variant")()


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = recipes.faces(8)
    config.seeds = (1,)
    for part in (config, config.needs.teacher):
        part.data.update({"per_identity": 8, "pairs": 600})
        part.duration = part.eval_every = part.checkpoint_every = 20.0
        part.optim.warmup = 2.0
    rows = recipes.face_rows()
    config.students = configs.students(
        {name: rows[name] for name in ("labels", "labels+direction")}
    )
    return config


def lfw() -> ConfigDict:
    """LFW at 16 pixels: SGD 0.1, 20 epochs, a tenth at 10, 14 and 18."""
    config = _photographs({"name": "lfw", "train": "data/train"}, "embed_face18")
    for part in (config, config.needs.teacher):
        part.loss.update({"margin": 0.5, "scale": 64.0})
        part.optim.update(
            {"schedule": "step", "milestones": (10.0, 14.0, 18.0), "lr": 0.1}
        )
    config.view = config.needs.teacher.view = ConfigDict(
        {"name": "low", "base": {"name": "flip"}, "side": 16}
    )
    student = {"name": "embed8", "input": "low", "width": 512, "scale": 64.0}
    config.model = ConfigDict({**student, "stem": 64, "widths": (64, 128, 256)})
    rows = recipes.face_rows()
    for row in rows.values():
        row["loss"] = {**row["loss"], "scale": 64.0}
    config.students = configs.students(rows)
    return config


def uccs() -> ConfigDict:
    """Closed-set identification of 180 people at 16 pixels, as UCCS is used."""
    config = lfw()
    data = {"name": "identities", "root": "data/uccs", "top": 180, "enlarge": True}
    config.data = config.needs.teacher.data = ConfigDict(data)
    return config


def retrieval(name: str) -> ConfigDict:
    """CUB or Cars196 as in RKD: a teacher by triplets, students by relations alone."""
    config = _photographs({"name": name, "split": "metric"}, "embed_resnet50")
    for part, epochs, marks in (
        (config, 80.0, (40.0, 60.0)),
        (config.needs.teacher, 40.0, (25.0, 30.0, 35.0)),
    ):
        part.loss = ConfigDict({"labels": "triplet"})
        part.batch_size, part.duration = 128, epochs
        part.optim.update({"name": "adamw", "lr": 1e-4, "weight_decay": 1e-5})
        part.optim.update({"schedule": "step", "milestones": marks})
    config.needs.teacher.optim.factor = 0.5
    config.view = config.needs.teacher.view = ConfigDict({"name": "flip"})
    config.model = ConfigDict({"name": "embed_resnet18", "width": 64})
    relations = {"labels": "none", "distance_weight": 1.0, "angle_weight": 2.0}
    config.students = configs.students(
        {
            "triplet": {"method": "metric_learning", "loss": {"labels": "triplet"}},
            "relations": {"method": "metric_learning", "loss": relations},
        }
    )
    config.reference = "triplet"
    return config


def _photographs(data: dict, teacher: str) -> ConfigDict:
    config = recipes.faces(16)
    for part in (config, config.needs.teacher):
        part.data = ConfigDict(data)
        part.unit, part.duration, part.batch_size = "epochs", 20.0, 256
        part.eval_every = part.checkpoint_every = 1.0
        part.optim.warmup = 1.0
        part.dtype = "bfloat16"
    config.needs.teacher.model = ConfigDict({"name": teacher})
    config.name = data["name"]
    return config
