"""Recipes across resolutions, as data and as configurations.

``configs/horkd.py``, ``crrcd.py``, ``aird.py``, ``sftn.py`` and ``gdrd.py`` are made of
these: drawn characters of 32 pixels for a teacher that has seen many, the same at 8
pixels for students that own few.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.recipes import classification

Row = dict[str, Any]

SIDES = (4, 5, 6, 8, 12)
BY_SIDE = {"eval_sizes": SIDES}
SEEDS = (1, 2, 3)
PER_CLASS = 15
EPOCHS, ASSISTANT_EPOCHS, TEACHER_EPOCHS = 32.0, 20.0, 6.0
LONG = 60.0, 40.0, 8.0  # of the same three
# What cross entropy alone likes best, so all take it. With a shorter warm-up some seeds
# of it fail.
STUDENT_DECAY, STUDENT_WARMUP = 5e-3, 5.0
ORDERS: Row = {"first_weight": 20.0, "second_weight": 25.0, "third_weight": 50.0}


def fading(epochs: float) -> tuple[float, float]:
    """Returns the last fifth of a training, in which what teachers say fades out."""
    return 0.8 * epochs, epochs


FADE = fading(EPOCHS)


def glyphs(
    name: str, epochs: float = EPOCHS, teacher_epochs: float = TEACHER_EPOCHS
) -> ConfigDict:
    """Makes a run called ``name`` on drawn characters, 32 to 8 pixels.

    A teacher of 10,000 images; students, yet to be added, of 15 images per class, drawn
    anew for each of three seeds.

    Args:
      name: of the run.
      epochs: length of the students' training.
      teacher_epochs: of the teacher's.
    """
    config = configs.default()
    config.name = "teacher"
    config.model = ConfigDict({"name": "lowres_teacher"})
    config.data = ConfigDict(
        {"name": "glyph100", "size": 32, "train": 10_000, "test": 4_000}
    )
    config.view = ConfigDict({"name": "low", "base": {"name": "recolour"}, "side": 8})
    config.batch_size = 64
    config.eval_batch_size = 250
    config.duration = config.eval_every = config.checkpoint_every = teacher_epochs
    config.optim.update({"lr": 0.1, "nesterov": True, "warmup": 1.0})
    need = configs.needed(config)
    config.name = name
    config.model = ConfigDict({"name": "lowres_student", "input": "low"})
    del config.data.train
    config.data.per_class = PER_CLASS
    config.seeds = SEEDS
    config.batches = "per_seed"
    config.duration = config.eval_every = config.checkpoint_every = epochs
    config.optim.update({"weight_decay": STUDENT_DECAY, "warmup": STUDENT_WARMUP})
    config.needs = ConfigDict({"teacher": need})
    return config


def assistant(
    config: ConfigDict,
    model: Row | None = None,
    start_from: str = "teacher",
    epochs: float = ASSISTANT_EPOCHS,
) -> ConfigDict:
    """Makes the run of an assistant, which learns from the same teacher.

    It sees the students' own images, and each seed has its own.

    Args:
      config: of the students, as ``glyphs`` makes it.
      model: the assistant's network; None for the teacher's at 8 pixels.
      start_from: a needed run whose variables it starts from; empty for none.
      epochs: length of its training.
    """
    need = config.copy_and_resolve_references()
    with need.unlocked():
        need.name = "assistant"
        need.method = "horkd"
        need.model = ConfigDict(model or {"name": "lowres_assistant", "input": "low"})
        need.loss = ConfigDict(
            {"kd_weight": 3.0, **ORDERS, "fade": fading(epochs)}
            | ({"start_from": start_from} if start_from else {})
        )
        need.duration = need.eval_every = need.checkpoint_every = epochs
        need.optim.lr = 0.05
    return configs.needed(need)


def horkd_rows(fade: tuple[float, float] = FADE) -> dict[str, Row]:
    """Returns the students of HORKD's table.

    All that the teachers say fades out towards the end.

    Args:
      fade: units between which all that the teachers say fades to nothing.
    """
    both: dict[str, Any] = {"teacher_weights": {"teacher": 0.5, "assistant": 0.5}}
    return {
        "ce": _row(fade=fade),
        "kd": _row(kd_weight=3.0, fade=fade),
        "order1": _row(first_weight=20.0, fade=fade),
        "orders12": _row(first_weight=20.0, second_weight=25.0, fade=fade),
        "orders123": _row(**ORDERS, fade=fade),
        "orders123_assistant": _row(**ORDERS, **both, fade=fade),
        "kd_assistant": _row(kd_weight=3.0, **both, fade=fade),
        "all_assistant": _row(kd_weight=3.0, **ORDERS, **both, fade=fade),
    }


def _row(measured: Row = BY_SIDE, **loss: Any) -> Row:
    none = {
        "kd_weight": 0.0,
        "first_weight": 0.0,
        "second_weight": 0.0,
        "third_weight": 0.0,
    }
    return {"method": "horkd", "loss": none | loss | measured}


def joint_rows(fade: tuple[float, float] = FADE) -> dict[str, Row]:
    """Returns HORKD with the student as its own assistant, beside KD and without it."""
    rows = horkd_rows(fade)
    loss = {**ORDERS, "strides": (4, 2, 2), "fade": fade, "eval_sizes": SIDES}
    return {name: rows[name] for name in ("ce", "kd", "orders123")} | {
        "orders123_joint": {"method": "horkd_joint", "loss": loss}
    }


def crrcd_rows(
    fade: tuple[float, float] = FADE, measured: Row = BY_SIDE
) -> dict[str, Row]:
    """Returns CRRCD beside cross entropy, KD and the relations of HORKD.

    Args:
      fade: units between which all that the teacher says fades to nothing.
      measured: options of both methods by which students are measured: ``eval_sizes``,
        or ``layer`` for networks that embed.
    """
    common = {"fade": fade, **measured}
    return {
        "ce": _row(measured, fade=fade),
        "kd": _row(measured, kd_weight=3.0, fade=fade),
        "orders123": _row(measured, **ORDERS, fade=fade),
        "crrcd": {
            "method": "crrcd",
            "loss": {"kd_weight": 0.0, "contrast_weight": 2.0, **common},
        },
        "crrcd_kd": {
            "method": "crrcd",
            "loss": {"kd_weight": 3.0, "contrast_weight": 0.8, **common},
        },
    }


def aird_rows(fade: tuple[float, float] = FADE) -> dict[str, Row]:
    """Returns AIRD beside cross entropy and KD; all are measured while they adapt."""
    none = {
        "instance_weight": 0.0,
        "relation_weight": 0.0,
        "distance_weight": 0.0,
        "fade": fade,
    }
    some = {
        "instance_weight": 10.0,
        "relation_weight": 1.0,
        "distance_weight": 25.0,
        "fade": fade,
    }
    return {
        "ce": {"method": "aird", "loss": none},
        "kd": {"method": "aird", "loss": {**none, "kd_weight": 3.0}},
        "aird": {"method": "aird", "loss": some},
    }


def friendly(config: ConfigDict, branch_kl: float = 3.0) -> ConfigDict:
    """Makes the run of a teacher that is trained with branches of the student.

    Args:
      config: of the students, as ``glyphs`` makes it.
      branch_kl: weight of the branches' divergence from the teacher.
    """
    need = configs.standalone(config.needs.teacher)
    need.name = "friendly"
    need.method = "sftn"
    need.loss = ConfigDict(
        {
            "widths": (24, 48, 96),
            "strides": (1, 2, 2),
            "sides": (8, 4),
            "branch_kl_weight": branch_kl,
        }
    )
    return configs.needed(need)


def sftn_rows(fade: tuple[float, float] = FADE) -> dict[str, Row]:
    """Returns KD from either teacher, without and with relations."""
    rows: dict[str, Row] = {"ce": _row(fade=fade)}
    for name, teacher in (("", "teacher"), ("_friendly", "friendly")):
        teacher_weights: dict[str, Any] = {
            "teacher_weights": {teacher: 1.0},
            "fade": fade,
        }
        rows[f"kd{name}"] = _row(kd_weight=3.0, **teacher_weights)
        rows[f"orders123{name}"] = _row(**ORDERS, **teacher_weights)
    return rows


def gdrd(
    config: ConfigDict,
    generator_epochs: float = 6.0,
    epochs: float = 40.0,
    *,
    view: Row | None = None,
    denoiser: Row | None = None,
) -> ConfigDict:
    """Adds GDRD's generative teacher and the backbones that learn from it.

    Args:
      config: of the students, as ``glyphs`` makes it; changed.
      generator_epochs: length of the denoiser's training.
      epochs: length of the backbones' training.
      view: further options of the view ``noisy``.
      denoiser: likewise of its network.
    """
    noisy = {"name": "noisy", "base": config.view.to_dict(), **(view or {})}
    config.view = config.needs.teacher.view = ConfigDict(noisy)
    generator = configs.standalone(config.needs.teacher)
    generator.name, generator.method = "generator", "gdrd_generator"
    model = {"name": "lowres_denoiser", "input": "noisy", **(denoiser or {})}
    generator.model = ConfigDict(model)
    generator.duration = generator_epochs
    generator.eval_every = generator.checkpoint_every = generator_epochs
    generator.optim.update({"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4})
    backbone = config.copy_and_resolve_references()
    backbone.name, backbone.method = "backbone", "gdrd"
    backbone.loss = ConfigDict({"stage": "generative"})
    backbone.needs = ConfigDict({"generator": configs.needed(generator)})
    backbone.duration = backbone.eval_every = backbone.checkpoint_every = epochs
    # By SGD at the students' rate it predicts a constant within a hundred steps; by
    # AdamW at a tenth of this rate, over 20 epochs, it explains too little of the
    # features to beat a random backbone.
    backbone.optim.update({"name": "adamw", "lr": 2e-2, "weight_decay": 1e-4})
    config.needs.backbone = configs.needed(backbone)
    return config


def share_unlabelled(config: ConfigDict, epochs: float) -> ConfigDict:
    """Gives GDRD's backbones the generator's images; adds ``needs.untrained``.

    One backbone for all seeds then predicts the features of the generator on the many
    images that it was trained on, whose labels neither looks at. ``untrained`` is the
    same of a generator that keeps its first weights.

    Args:
      config: as ``gdrd`` makes it; changed.
      epochs: length of the backbones' training.
    """
    backbone = configs.standalone(config.needs.backbone)
    backbone.data = backbone.needs.generator.data
    backbone.seeds, backbone.batches = (0,), "shared"
    backbone.duration = backbone.eval_every = backbone.checkpoint_every = epochs
    backbone.optim.warmup = 1.0
    config.needs.backbone = configs.needed(backbone)
    generator = backbone.needs.generator
    # Two steps that change nothing.
    generator.optim.update({"lr": 0.0, "warmup": 0.0})
    generator.duration = generator.eval_every = generator.checkpoint_every = 0.01
    config.needs.untrained = configs.needed(backbone)
    return config


def gdrd_rows(
    fade: tuple[float, float] = FADE, eval_sizes: tuple[int, ...] = SIDES
) -> dict[str, Row]:
    """Returns GDRD beside a random frozen backbone and students trained as a whole."""
    some = {"kd_weight": 3.0, "fade": fade, "eval_sizes": eval_sizes}
    fixed = {"weight_decay": 0.0}
    return {
        "kd": {
            "method": "gdrd",
            "loss": {**some, "contrast_weight": 0.0, "freeze": False},
        },
        "random_frozen": {"method": "gdrd", "loss": some, "optim": fixed},
        "gdrd": {
            "method": "gdrd",
            "loss": {**some, "start_from": "backbone"},
            "optim": fixed,
        },
        "gdrd_free": {
            "method": "gdrd",
            "loss": {**some, "start_from": "backbone", "freeze": False},
        },
    }


def shortened(config: ConfigDict, rows: dict[str, Row]) -> ConfigDict:
    """Makes a run with all its needs short: one seed, two epochs, few images.

    Args:
      config: to be changed.
      rows: its students instead of those it has.
    """
    _shorten(config)
    config.students = configs.students(rows)
    return config


def _shorten(config: ConfigDict) -> None:
    config.allow_weak_teacher = True  # In so few steps, nothing is learnt.
    config.data.test = 500
    if "train" in config.data:
        config.data.train = 2000
    if len(config.seeds) > 1:
        config.seeds = (1,)
    config.duration = config.eval_every = config.checkpoint_every = 2.0
    config.optim.warmup = 1.0
    if "fade" in config.loss:
        config.loss.fade = (1.0, 2.0)
    for need in config.needs.values():
        _shorten(need)


def cifar100(teacher: str, student: str, side: int) -> ConfigDict:
    """Makes a run of CIFAR-100 reduced to ``side`` pixels with HORKD's students.

    The recipe is that of the CIFAR benchmarks (``jaxkd.recipes.classification``), the
    weights those of RKD there. At 8 pixels the student's first stages keep the size of
    the map.

    Args:
      teacher: network of the teacher, at 32 pixels.
      student: network of the students.
      side: of the students' images, 8 or 16.
    """
    config = classification.cifar100(teacher, student)
    view = {"name": "low", "base": {"name": "crop_flip"}, "side": side}
    for part in (config, config.needs.teacher):
        part.view = ConfigDict(view)
    config.name = f"horkd-{config.name}-{side}"
    config.method = "horkd"
    config.model.input = "low"
    if student.startswith("resnet"):
        config.model.strides = (1, 1, 2) if side == 8 else (1, 2, 2)
    kd = {"kd_weight": 0.9, "ce_weight": 0.1}
    rows: dict[str, Row] = {
        "ce": {},
        "kd": kd,
        "orders123": {"first_weight": 1.0, "second_weight": 25.0, "third_weight": 50.0},
        "kd_orders123": {
            **kd,
            "first_weight": 1.0,
            "second_weight": 25.0,
            "third_weight": 50.0,
        },
    }
    config.students = configs.students(
        {name: _row(**row) for name, row in rows.items()}
    )
    config.reference = "kd"
    return config
