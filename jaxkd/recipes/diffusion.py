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


def scenes() -> ConfigDict:
    """A text-to-image model of drawn scenes of 32 x 32 pixels."""
    config = configs.default()
    config.name = "scenes"
    config.method = "captions"
    config.model = ConfigDict({"name": "scene_diffusion", "predicts": "velocity"})
    config.loss = ConfigDict({"weighting": "velocity"})
    config.data = ConfigDict({"name": "captions"})
    config.view = ConfigDict({"name": "signed"})
    config.unit, config.duration = "steps", 1_200
    config.eval_every = config.checkpoint_every = 300
    config.batch_size, config.eval_batch_size, config.ema = 32, 250, 0.995
    config.optim.update(
        {"name": "adamw", "lr": 2e-3, "weight_decay": 0.0, "warmup": 100}
    )
    config.optim.clip_norm = 1.0
    return config


def scenes_quick() -> ConfigDict:
    """A few steps of a narrow network: it learns next to nothing."""
    config = scenes()
    config.name = "scenes-quick"
    config.model.name = "scene_diffusion_narrow"
    config.data.update({"train": 400, "test": 50})
    config.duration, config.eval_every, config.optim.warmup = 40, 20, 10
    config.checkpoint_every, config.batch_size, config.eval_batch_size = 20, 8, 50
    return config
