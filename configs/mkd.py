"""MKD: super-resolution whose distillation is learnt (arXiv:2207.08356).

    python -m jaxkd.main --config=configs/mkd.py

An EDSR of 8 blocks and 32 channels learns to double drawn characters of 16 pixels; a
student of 4 blocks and 8 channels learns the same alone (``none``), with the mean
absolute difference of features (``features``), and with MKD, over three seeds. Minutes
on two CPU cores, no download. docs/restoration.md says what came out.

    configs/mkd.py:quick        few steps: a look at how it works
    configs/mkd.py:div2k        EDSR 32 x 256 teaches EDSR 16 x 64 on data/DIV2K/train
                                and data/DIV2K/valid, patches of 48 pixels, x2. For an
                                accelerator, about a day; never run here
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose

TAPS = ("stage1", "stage2")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": glyphs, "quick": quick, "div2k": div2k}
    return choose(arg, variants, what="configs/mkd.py variant")()


def glyphs() -> ConfigDict:
    """Drawn characters, 16 to 32 pixels."""
    config = configs.default()
    config.name, config.method = "teacher", "super_resolution"
    config.data = ConfigDict(
        {"name": "glyph100", "size": 32, "train": 4_000, "test": 1_000}
    )
    config.view = _view(16)
    config.model = _edsr(8, 32)
    config.unit, config.batch_size, config.eval_batch_size = "steps", 16, 250
    config.duration = config.eval_every = config.checkpoint_every = 1_200.0
    config.optim.update({"name": "adam", "lr": 1e-3, "weight_decay": 0.0})
    need = configs.needed(config)
    config.name, config.seeds = "mkd", (1, 2, 3)
    config.model = _edsr(4, 8)
    config.needs = ConfigDict({"teacher": need})
    config.reference = "none"
    config.students = configs.students(
        {
            "none": {"method": "super_resolution"},
            "features": {
                "method": "super_resolution",
                "loss": {"feature_weight": 0.1, "taps": TAPS},
            },
            "mkd": {
                "method": "mkd",
                "loss": {"knowledge_weight": 0.1, "taps": TAPS},
                "optimizers": {"meta": {"lr": 1e-3}},
            },
        }
    )
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = glyphs()
    config.seeds = (1,)
    for part in (config, config.needs.teacher):
        part.data.update({"train": 200, "test": 100})
        part.duration = part.eval_every = part.checkpoint_every = 10.0
        part.eval_batch_size = 50
        part.model.update({"blocks": 2, "width": 4})
    return config


def div2k() -> ConfigDict:
    """The published setting as far as it is known."""
    config = glyphs()
    sizes = ((config, 16, 64, 1.0), (config.needs.teacher, 32, 256, 0.1))
    for part, blocks, width, branch in sizes:
        part.data = ConfigDict(
            {"name": "image_pairs", "root": "data/DIV2K", "size": 96}
        )
        part.view = _view(48)
        part.model = _edsr(blocks, width)
        part.model.update({"branch_scale": branch, "image_skip": False})
        part.duration, part.eval_every = 300_000.0, 10_000.0
        part.checkpoint_every, part.eval_batch_size = 10_000.0, 20
        part.optim.lr = 1e-4
    config.students.mkd.optimizers.meta.lr = 1e-4
    return config


def _view(side: int) -> ConfigDict:
    view = {"name": "low", "base": {"name": "signed_dihedral"}, "side": side}
    return ConfigDict({**view, "kernel": "bicubic_aa"})


def _edsr(blocks: int, width: int) -> ConfigDict:
    size = {"blocks": blocks, "width": width, "taps": len(TAPS)}
    network = {"name": "edsr_baseline", "scale": 2, "image_skip": True, **size}
    return ConfigDict({**network, "input": "low"})
