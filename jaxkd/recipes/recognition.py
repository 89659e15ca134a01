"""Recipes of recognition on drawn faces and textures, as configurations.

``configs/faces.py``, ``configs/ipn.py`` and ``configs/at_plus.py`` are made of these.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import config as configs

Row = dict[str, Any]

FACE_TEACHER: Row = {
    "name": "embed8",
    "photographs": True,
    "strides": (1, 2, 2),
    "widths": (16, 32, 64),
}
STUDENT_WIDTHS = (16, 32, 64)
LABELS: Row = {"labels": "arcface", "margin": 0.2}


def faces(side: int) -> ConfigDict:
    """Makes a run of drawn faces: a teacher of 64 pixels, students of ``side``.

    Args:
      side: of the images that students see, 8 or 16.
    """
    config = _common("metric_learning", batch=64, steps=400, lr=0.1)
    config.loss = ConfigDict(LABELS)
    config.data = ConfigDict({"name": "faces"})
    base = {"name": "crop_flip", "pad": 3, "flip": False}
    config.view = ConfigDict({"name": "low", "base": base, "side": side})
    config.name = "teacher"
    config.model = ConfigDict(FACE_TEACHER)
    need = configs.needed(config)
    config.name = f"faces-{side}"
    config.model = ConfigDict(
        {
            "name": "embed8",
            "input": "low",
            "widths": STUDENT_WIDTHS,
            "strides": (1, 2, 2),
        }
    )
    config.seeds = (1, 2, 3)
    config.needs = ConfigDict({"teacher": need})
    config.reference = "labels"
    config.students = configs.students(face_rows())
    return config


def face_rows() -> dict[str, Row]:
    """Returns what students of faces learn from: labels, the teacher, or both."""
    rows = {
        "labels": LABELS,
        "labels+kd": {**LABELS, "kd_weight": 1.0},
        "labels+direction": {**LABELS, "direction_weight": 10.0},
        "labels+relations": {**LABELS, "distance_weight": 5.0, "angle_weight": 10.0},
        "relations": {"labels": "none", "distance_weight": 5.0, "angle_weight": 10.0},
    }
    return {
        name: {"method": "metric_learning", "loss": loss} for name, loss in rows.items()
    }


def mixed_faces(
    size: int, sides: tuple[int, ...], strides: tuple[int, ...] = (2, 2, 2)
) -> ConfigDict:
    """Makes a run of faces of mixed resolution, enlarged to one size.

    Args:
      size: of the images.
      sides: that students' images are reduced to; the smallest is evaluated.
      strides: of the stages of all networks, powers of two.
    """
    config = _common("metric_learning", batch=64, steps=500, lr=0.1)
    config.loss = ConfigDict(LABELS)
    config.data = ConfigDict({"name": "faces", "size": size})
    config.view = ConfigDict(
        {
            "name": "mixed_low",
            "base": {"name": "crop_flip", "pad": 2, "flip": False},
            "sides": sides,
            "blur": (0.2, 1.0),
            "noise": (0.02, 0.2),
        }
    )
    config.name = "teacher"
    trunk = {"stem": 8, "widths": (8, 16, 32), "strides": strides}
    waves = {"name": "embed8_wavelets", **trunk}
    config.model = ConfigDict(waves)
    need = configs.needed(config)
    config.name = "ipn"
    config.model = ConfigDict({**waves, "input": "low"})
    config.seeds = (1, 2, 3)
    config.needs = ConfigDict({"teacher": need})
    config.reference = "strided"
    strided = {"name": "embed8", **trunk, "input": "low"}
    sides_shown = tuple(sides[::2])
    labels = {**LABELS, "sides": sides_shown}
    terms = {"margin": LABELS["margin"], "sides": sides_shown}
    config.students = configs.students(
        {
            "strided": {
                "method": "metric_learning",
                "model": strided,
                "loss": labels,
            },
            "waves": {"method": "metric_learning", "loss": labels},
            "ipn": {"method": "ipn", "loss": terms},
            "ipn_strided": {"method": "ipn", "model": strided, "loss": terms},
        }
    )
    return config


def textures(size: int, side: int, per_class: int) -> ConfigDict:
    """Makes a run of textures: a teacher of ``size`` pixels, students of ``side``.

    Args:
      size: of the images.
      side: that students' images are reduced to before they are enlarged again.
      per_class: labelled images that each student owns of each class.
    """
    config = _common("supervised", batch=32, steps=300, lr=0.05)
    config.data = ConfigDict({"name": "textures", "size": size})
    config.view = ConfigDict(
        {
            "name": "low",
            "base": {"name": "crop_flip", "pad": 4, "flip": False},
            "side": side,
            "up_to": size,
            "up_kernel": "bilinear",
        }
    )
    config.name = "teacher"
    model = {
        "name": "resnet8",
        "stem": 8,
        "widths": (8, 16, 32),
        "strides": (2, 2, 2),
    }
    config.model = ConfigDict(model)
    need = configs.needed(config)
    config.name = f"at-plus-{side}"
    config.model = ConfigDict({**model, "input": "low"})
    config.data.per_class = per_class
    config.batches = "per_seed"
    config.seeds = (1, 2, 3, 4, 5)
    config.needs = ConfigDict({"teacher": need})
    config.reference = "ce"
    config.students = configs.students(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd", "loss": {"kd_weight": 1.0, "ce_weight": 1.0}},
            "at_plus": {"method": "at_plus"},
            "at_plus+kd": {"method": "at_plus", "loss": {"kd_weight": 1.0}},
        }
    )
    return config


def _common(method: str, *, batch: int, steps: int, lr: float) -> ConfigDict:
    config = configs.default()
    config.method = method
    config.unit = "steps"
    config.batch_size, config.duration = batch, float(steps)
    config.eval_every = config.checkpoint_every = float(steps // 2)
    config.optim.update(
        {"lr": lr, "nesterov": True, "warmup": float(steps // 15), "weight_decay": 1e-3}
    )
    return config
