"""Irises at a quarter of the resolution: enlarge, then recognise (arXiv:2311.01241).

    python -m jaxkd.main --config=configs/iris.py

SRCNN and an auto-encoder of patches learn to enlarge drawn irises of 16 noisy pixels to
64, on 60 irises of 6 photographs; iris codes of 20 other irises are then compared. The
report shows equal error rates beside bicubic enlargement and the large images. Three
seeds, minutes on two CPU cores, no download. See docs/restoration.md.

    configs/iris.py:quick     few steps: a look at how it works
    configs/iris.py:published SRCNN with all of its 64 and 32 channels, as published
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": irises, "quick": quick, "published": published}
    return choose(arg, variants, what="configs/iris.py variant")()


def irises() -> ConfigDict:
    """Drawn irises, 16 to 64 pixels."""
    config = configs.default()
    config.name, config.method = "iris", "iris"
    config.data = ConfigDict({"name": "irises"})
    low = {"name": "low", "base": {"name": "signed"}, "side": 16}
    noise = {"noise": (0.04, 0.08), "levels": (-1.0, 1.0)}
    config.view = ConfigDict({**low, "kernel": "bicubic_aa", **noise})
    # A quarter of SRCNN's channels: full ones take four times as long here.
    srcnn = {"name": "srcnn", "scale": 4, "widths": (32, 16), "input": "low"}
    config.model = ConfigDict(srcnn)
    config.unit, config.batch_size, config.eval_batch_size = "steps", 8, 60
    config.duration = config.eval_every = config.checkpoint_every = 400.0
    config.optim.update({"name": "adam", "lr": 1e-3, "weight_decay": 0.0})
    config.seeds = (1, 2, 3)
    config.batches = "per_seed"
    encoder = {"name": "patch_autoencoder", "scale": 4, "input": "low"}
    config.students = configs.students({"srcnn": {}, "autoencoder": {"model": encoder}})
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = irises()
    config.seeds = (1,)
    config.data.update({"train_identities": 4, "test_identities": 4, "each": 3})
    config.duration = config.eval_every = config.checkpoint_every = 4.0
    config.eval_batch_size = 6
    return config


def published() -> ConfigDict:
    """SRCNN as it was published (the study's own sizes are not known)."""
    config = irises()
    config.model.widths = (64, 32)
    return config
