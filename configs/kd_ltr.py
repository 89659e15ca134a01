"""KD-LTR: small lines of text, read with a large line's knowledge (arXiv:2308.02770).

    python -m jaxkd.main --config=configs/kd_ltr.py

A reader learns 4,000 drawn words of four characters at 16 x 64 pixels. Students see
8 x 32: cross-entropy from scratch (``ce``), cross-entropy from the teacher's parameters
(``ce_warm``), KD-LTR, and the teacher itself on lines enlarged again (``bicubic``),
over three seeds. Minutes on two CPU cores, no download. See docs/text.md.

    configs/kd_ltr.py:quick       few steps: a look at how it works
    configs/kd_ltr.py:textzoom    ABINet's vision model on TextZoom (data/TextZoom),
                                  32 x 128 to 16 x 64, as published. For an
                                  accelerator, days; never run here
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose

SIZES = {
    "slots": 5,
    "blocks": (1, 1, 1, 1, 1),
    "widths": (8, 16, 16, 32, 32),
    "depth": 1,
    "heads": 4,
    "hidden": 64,
    "key_width": 16,
    "key_levels": 2,
    "dropout": 0.0,
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": words, "quick": quick, "textzoom": textzoom}
    return choose(arg, variants, what="configs/kd_ltr.py variant")()


def words() -> ConfigDict:
    """Drawn words, 16 x 64 to 8 x 32."""
    config = configs.default()
    config.name, config.method = "teacher", "text_recognition"
    config.data = ConfigDict({"name": "words"})
    config.view = ConfigDict({"name": "text_line"})
    config.model = ConfigDict({"name": "abinet_vision", **SIZES})
    config.unit, config.batch_size, config.eval_batch_size = "steps", 32, 250
    config.duration = config.eval_every = config.checkpoint_every = 1_500.0
    config.optim.update(
        {"name": "adam", "lr": 2e-3, "weight_decay": 0.0, "clip_norm": 1.0}
    )
    config.optim.warmup = 50.0
    need = configs.needed(config)
    config.name, config.seeds = "kd_ltr", (1, 2, 3)
    config.batches = "per_seed"
    config.model = ConfigDict({"name": "abinet_vision_half", **SIZES, "input": "low"})
    config.duration = config.eval_every = config.checkpoint_every = 600.0
    config.needs = ConfigDict({"teacher": need})
    config.reference = "ce_warm"
    large = {"name": "abinet_vision", **SIZES, "input": "enlarged"}
    warm = {"start_from": "teacher", "half": True}
    config.students = configs.students(
        {
            "bicubic": {
                "method": "text_recognition",
                "model": large,
                "loss": {"start_from": "teacher", "frozen": True},
            },
            "ce": {"method": "text_recognition"},
            "ce_warm": {"method": "text_recognition", "loss": warm},
            "kd_ltr": {
                "method": "kd_ltr",
                # The published weights but for cross-entropy's, whose 0.025 goes with
                # a teacher that is rarely wrong and hundreds of epochs.
                "loss": {"ce_weight": 1.0, "hidden": 16, "width": 32},
            },
        }
    )
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = words()
    config.seeds = (1,)
    for part in (config, config.needs.teacher):
        part.data.update({"train": 100, "test": 50})
        part.duration = part.eval_every = part.checkpoint_every = 6.0
        part.optim.warmup = 1.0
        part.eval_batch_size = 25
    return config


def textzoom() -> ConfigDict:
    """The published recipe, on TextZoom's own pairs of lines."""
    config = words()
    for part in (config, config.needs.teacher):
        part.data = ConfigDict({"name": "text_lines", "root": "data/TextZoom"})
        part.data.unknown = "drop"  # TextZoom counts letters and digits alone
        part.unit, part.batch_size = "epochs", 64
        part.duration, part.eval_every, part.checkpoint_every = 100.0, 1.0, 1.0
        part.optim.update(
            {
                "lr": 5e-5,
                "momentum": 0.5,
                "clip_norm": 0.25,
                "warmup": 0.0,
                "schedule": "step",
                "milestones": (25.0, 50.0, 75.0),
            }
        )
    config.needs.teacher.model = ConfigDict({"name": "abinet_vision"})
    config.model = ConfigDict({"name": "abinet_vision_half", "input": "low"})
    config.students.bicubic.model = ConfigDict(
        {"name": "abinet_vision", "input": "enlarged"}
    )
    config.students.kd_ltr.loss = ConfigDict({})  # all as published
    return config
