"""AT+: textures at a quarter of the resolution, and where the teacher looks.

    python -m jaxkd.main --config=configs/at_plus.py

(arXiv:2401.06010.) A teacher learns 2,400 textures of 64 pixels; students own 20 of
each of 12 classes, reduced to 16 pixels and enlarged again. Compared are cross entropy,
KD and AT+ over five seeds. Minutes on two CPU cores, no download. docs/recognition.md
says what came out.

    configs/at_plus.py:quick         few steps: a look at how it works
    configs/at_plus.py:folder        your own images in data/patches/train/<class> and
                                     data/patches/val/<class>: 512 pixels to 128, VGG16,
                                     Adam 1e-4, 20 epochs, as published. Never run here
"""

from ml_collections import ConfigDict

from jaxkd.core.lookup import choose
from jaxkd.recipes import recognition as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": lambda: recipes.textures(64, 16, 20),
        "quick": quick,
        "folder": folder,
    }
    return choose(arg, variants, what="configs/at_plus.py variant")()


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = recipes.textures(32, 8, 4)
    config.seeds = (1,)
    for part in (config, config.needs.teacher):
        part.data.update({"train": 240, "test": 240})
        part.allow_weak_teacher = True
        part.duration = part.eval_every = part.checkpoint_every = 20.0
    return config


def folder() -> ConfigDict:
    """The published recipe, with batch normalisation in the network."""
    config = recipes.textures(512, 128, 1)
    for part in (config, config.needs.teacher):
        part.data = ConfigDict({"name": "folder", "root": "data/patches", "size": 512})
        part.view.base = ConfigDict({"name": "flip"})
        part.unit, part.duration, part.batch_size = "epochs", 20.0, 16
        part.eval_every = part.checkpoint_every = 1.0
        part.optim.update({"name": "adamw", "lr": 1e-4, "warmup": 0.0})
        part.eval_batch_size = 16
    config.needs.teacher.model = ConfigDict({"name": "vgg16"})
    config.model = ConfigDict({"name": "vgg16", "input": "low"})
    config.seeds = (22, 32, 43)
    config.batches = "shared"
    return config
