"""TAD-SR: one step of diffusion for super-resolution (arXiv:2408.07476).

    python -m jaxkd.main --config=configs/tad_sr.py

A ResShift of 8 steps learns to enlarge drawn characters of 8 pixels to 32. Measured
beside it on three seeds: the teacher in all its steps (``all_steps``), the teacher cut
to one (``one_step``), a student of the mean squared error alone (``mse``), and TAD-SR.
Half an hour of CPU time, no download; results: docs/restoration.md.

    configs/tad_sr.py:quick     few steps: a look at how it works
    configs/tad_sr.py:published the published network, schedule and degradation, from 64
                                to 256 pixels of data/DIV2K/train and data/DIV2K/valid.
                                The paper diffuses latents of 64 x 64, of an
                                auto-encoder that is not part of this. For accelerators;
                                never run
    configs/tad_sr.py:published,64    the same from 16 to 64 pixels, at the price of
                                these latents
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose, variant

SCHEDULE = {"num_steps": 8, "kappa": 1.0, "least": 0.04}
PUBLISHED = {"num_steps": 15, "kappa": 2.0, "least": 0.04, "power": 0.3}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": glyphs, "quick": quick, "published": published}
    return variant(arg, variants, what="configs/tad_sr.py")


def glyphs() -> ConfigDict:
    """Drawn characters, 8 to 32 pixels."""
    config = configs.default()
    config.name, config.method = "teacher", "resshift"
    config.loss = ConfigDict({"schedule": SCHEDULE})
    config.data = ConfigDict(
        {"name": "glyph100", "size": 32, "train": 4_000, "test": 500}
    )
    low = {"name": "low", "base": {"name": "signed"}, "side": 8}
    low["kernel"] = "bicubic_aa"
    config.view = ConfigDict({"name": "noised", "base": low, "schedule": SCHEDULE})
    size = {"width": 16, "embed": 16, "heads": 2}
    config.model = ConfigDict({"name": "resshift_small", "input": "packed", **size})
    config.unit, config.batch_size, config.eval_batch_size = "steps", 16, 100
    config.duration = config.eval_every = config.checkpoint_every = 1_000.0
    config.optim.update(
        {"name": "adam", "lr": 1e-3, "weight_decay": 0.0, "clip_norm": 1.0}
    )
    need = configs.needed(config)
    config.name, config.seeds = "tad_sr", (1, 2, 3)
    config.batches = "per_seed"
    config.needs = ConfigDict({"teacher": need})
    config.duration = config.eval_every = config.checkpoint_every = 200.0
    config.optim.lr = 1e-4
    config.loss = ConfigDict()
    config.reference = "mse"
    still = {"schedule": SCHEDULE, "start_from": "teacher", "frozen": True}
    player = {"discriminator": {"lr": 1e-4, "momentum": 0.0, "beta2": 0.99}}
    none = {"hsd_weight": 0.0, "adversarial_weight": 0.0}
    config.students = configs.students(
        {
            "all_steps": {"method": "resshift", "loss": still},
            "one_step": {"method": "resshift", "loss": {**still, "one_step": True}},
            "mse": {"method": "tad_sr", "loss": {"schedule": SCHEDULE, **none}},
            "tad_sr": {
                "method": "tad_sr",
                "loss": {"schedule": SCHEDULE, "width": 32},
                "optimizers": player,
            },
        }
    )
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = glyphs()
    config.seeds = (1,)
    small = {"width": 8, "multipliers": (1, 1, 1), "groups": 4, "embed": 8}
    for part in (config, config.needs.teacher):
        part.data.update({"train": 100, "test": 100})
        part.duration = part.eval_every = part.checkpoint_every = 4.0
        part.eval_batch_size = 50
        part.model.update(small)
    for name in ("mse", "tad_sr"):
        config.students[name].loss.update({"groups": 4, "width": 8})
    return config


def published(size: str = "256") -> ConfigDict:
    """The published setting of photographs, but in pixels; see above."""
    side = choose(size, {"256": 256, "64": 64}, what="size of configs/tad_sr.py")
    config = glyphs()
    teacher = config.needs.teacher
    low = {"name": "real_esrgan", "base": {"name": "signed_dihedral"}, "scale": 4}
    for part in (config, teacher):
        part.data = ConfigDict(
            {"name": "image_pairs", "root": "data/DIV2K", "size": side, "scale": 4}
        )
        part.view = ConfigDict({"name": "noised", "base": low, "schedule": PUBLISHED})
        # 160 channels times 1, 2, 2 and 4; Swin layers of 192 in windows of 8.
        part.model = ConfigDict({"name": "resshift", "input": "packed", "remat": True})
        # Eight images on each of eight devices, of which each takes one at a time.
        part.batch_size, part.accumulate, part.eval_batch_size = 64, 8, 8
        part.eval_every = part.checkpoint_every = 5_000.0
        part.ema = 0.999
        part.optim.update({"lr": 5e-5, "warmup": 5_000.0, "schedule": "constant"})
        part.optim.clip_norm = 0.0
    teacher.loss.schedule = PUBLISHED
    teacher.duration = 500_000.0  # of ResShift's paper, as far as we remember it
    config.duration = 30_000.0
    for student in config.students.values():
        student.loss.schedule = PUBLISHED
    config.students.tad_sr.loss.update({"width": 64, "groups": 32})
    # The discriminator's optimiser is not published.
    config.students.tad_sr.optimizers.discriminator.lr = 5e-5
    return config
