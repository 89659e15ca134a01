"""Recipes of small diffusion models, trained in minutes on embedded data."""

from ml_collections import ConfigDict

from jaxkd.core import config as configs


def digits() -> ConfigDict:
    """EDM on scikit-learn's digits, unconditional: 8 x 8 grey pixels."""
    config = configs.default()
    config.name = "edm-digits"
    config.method = "edm"
    config.model = ConfigDict(
        {"name": "song_unet", "model_channels": 24, "channel_mult": (1, 2)}
    )
    config.data = ConfigDict({"name": "digits"})
    config.view = ConfigDict({"name": "signed"})
    config.unit, config.duration = "steps", 3_000
    config.eval_every = config.checkpoint_every = 500
    config.batch_size, config.ema = 64, 0.995
    config.optim.update(
        {"name": "adamw", "lr": 2e-3, "weight_decay": 0.0, "warmup": 100}
    )
    return config
