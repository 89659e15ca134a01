"""MSAD: detection on half the resolution (arXiv:2109.06875).

    python -m jaxkd.main --config=configs/msad.py

A small FCOS learns 2,000 drawn scenes of 1 to 5 digits (0, 1 and 2) at 96 pixels,
together with their halves and the fusion of both. Students see 48 pixels: from scratch
(``low``), from the teacher's parameters (``low_warm``), and with MSAD, over three
seeds. Minutes on two CPU cores, no download. See docs/detection.md.

    configs/msad.py:quick      few steps: a look at how it works
    configs/msad.py:coco       FCOS with ResNet-50 on data/coco, padded squares of 1,024
                               pixels, width 0.5 (``coco_025``, ``coco_075``,
                               ``coco_100`` for others); a batch of 8. For an
                               accelerator, days; never run here
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": scenes, "quick": quick, "coco": lambda: coco(50)}
    variants |= {
        f"coco_{width:03d}": lambda width=width: coco(width) for width in (25, 75, 100)
    }
    return choose(arg, variants, what="configs/msad.py variant")()


def scenes() -> ConfigDict:
    """Drawn scenes, 96 to 48 pixels."""
    config = configs.default()
    config.name, config.method = "teacher", "msad"
    config.loss = ConfigDict({"stage": "teacher"})
    config.data = ConfigDict({"name": "detection_scenes", "classes": 3})
    config.view = ConfigDict({"name": "detection", "flip": False, "kernel": "area"})
    model = {"name": "fcos_small", "levels": 2}
    config.model = ConfigDict({**model, "fusion": True})
    config.unit, config.batch_size, config.eval_batch_size = "steps", 8, 50
    config.duration = config.eval_every = config.checkpoint_every = 700.0
    config.optim.update(
        {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "clip_norm": 10.0}
    )
    config.optim.warmup = 50.0
    need = configs.needed(config)
    config.name, config.seeds = "msad", (1, 2, 3)
    config.batches = "per_seed"
    config.loss = ConfigDict()
    config.model = ConfigDict({**model, "input": "low"})
    config.duration = config.eval_every = config.checkpoint_every = 400.0
    config.needs = ConfigDict({"teacher": need})
    config.reference = "low_warm"
    config.students = configs.students(
        {
            "low": {"method": "detection"},
            "low_warm": {"method": "detection", "loss": {"start_from": "teacher"}},
            "msad": {"method": "msad", "loss": {"warmup": 50.0}},
        }
    )
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = scenes()
    config.seeds = (1,)
    for part in (config, config.needs.teacher):
        part.data.update({"side": 64, "train": 24, "test": 12})
        part.duration = part.eval_every = part.checkpoint_every = 6.0
        part.optim.warmup, part.eval_batch_size = 1.0, 6
    config.students.msad.loss.warmup = config.needs.teacher.loss.warmup = 3.0
    return config


def coco(width: int) -> ConfigDict:
    """The published recipe with a backbone of ``width`` percent of the channels."""
    config = scenes()
    model = {"name": "fcos_resnet50", "width": width / 100}
    teacher = config.needs.teacher
    for part, steps, batch in ((teacher, 180_000, 8), (config, 45_000, 32)):
        part.data = ConfigDict(
            {"name": "boxes", "root": "data/coco", "size": 1024, "most": 100}
        )
        part.view = ConfigDict({"name": "detection"})
        part.batch_size, part.eval_batch_size = batch, batch
        part.duration, part.eval_every = float(steps), 15_000.0
        part.checkpoint_every = 5_000.0
        part.optim.update(
            {
                "name": "sgd",
                "lr": 0.01,
                "weight_decay": 1e-4,
                "clip_norm": 0.0,
                "warmup": 500.0,
                "schedule": "step",
                "milestones": (steps * 2 / 3, steps * 8 / 9),
            }
        )
    teacher.model = ConfigDict({**model, "fusion": True})
    config.model = ConfigDict({**model, "input": "low"})
    config.students.msad.loss = ConfigDict()
    for part in (teacher, *config.students.values()):  # all by one loss
        part.loss = ConfigDict({**part.get("loss", {}), "official": True})
    config.seeds = (1,)
    return config
