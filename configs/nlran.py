"""NL-RAN on CT volumes: what its parts and its heat maps are worth (arXiv:2408.04300).

    python -m jaxkd.main --config=configs/nlran.py

draws CT phantoms with lesions of two kinds and trains twelve networks on them: a plain
3-D residual network, the same with attention, with a non-local block and with both
(NL-RAN), three seeds each. They are compared with classifiers of plain intensities, and
their heat maps with the lesions; minutes on two CPU cores, no download. What came out:
docs/medical.md. Variants:

    configs/nlran.py:comparators       CBAM and slice-wise COVNet beside NL-RAN
    configs/nlran.py:cccii             nlran56 on CT scans of your own, by default in
                                       class folders in ./data/cc-ccii; batch 8, 100
                                       epochs, volumes of 64x128x128. Not run here;
                                       meant for an accelerator of 16 GB or more
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose

LUNGS = (24, 32, 40)  # the middle of a phantom, with both lungs


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": phantoms, "comparators": comparators, "cccii": cccii}
    return choose(arg, variants, what="configs/nlran.py variant")()


def phantoms() -> ConfigDict:
    """The ablation on drawn phantoms."""
    config = _small("nlran")
    config.students = configs.students(
        {
            "resnet": {"model": {"name": "resnet3d_micro"}},
            "+A": {"model": {"name": "nlran_micro", "non_local": 0}},
            "+NL": {"model": {"name": "nlran_micro", "attention": "none"}},
            "+A+NL": {"model": {"name": "nlran_micro"}},
        }
    )
    config.reference = "resnet"
    return config


def comparators() -> ConfigDict:
    """Other networks of about the same size on the same phantoms."""
    config = _small("nlran-comparators")
    names = ("resnet3d_micro", "cbam3d_micro", "covnet_micro", "nlran_micro")
    config.students = configs.students(
        {name: {"model": {"name": name}} for name in names}
    )
    config.reference = "resnet3d_micro"
    return config


def _small(name: str) -> ConfigDict:
    config = configs.default()
    config.name = name
    config.method = "nlran"
    config.model = ConfigDict({"name": "nlran_micro"})
    config.data = ConfigDict(
        {"name": "phantoms", "train": 480, "test": 240, "crop": LUNGS}
    )
    config.view = ConfigDict(
        {
            **{"name": "ct", "shift": 2.0, "rotation": 5.0, "zoom": 0.05},
            **{"intensity": 0.03, "noise": 0.0},
        }
    )
    config.seeds = (1, 2, 3)
    config.batch_size = 8
    config.eval_batch_size = 40
    config.unit = "steps"
    config.duration = 500
    config.eval_every = config.checkpoint_every = 250
    config.optim.update(
        {"name": "adamw", "lr": 6e-3, "weight_decay": 1e-4, "warmup": 50}
    )
    return config


def cccii() -> ConfigDict:
    """The network of full size, with the recipe that its parts' papers suggest."""
    config = configs.default()
    config.name = "nlran56"
    config.method = "nlran"
    config.loss = ConfigDict({"label_smoothing": 0.05})
    config.model = ConfigDict({"name": "nlran56"})
    config.data = ConfigDict(
        {
            **{"name": "ct", "root": "data/cc-ccii", "skip_bad": False},
            # Listed so that the command line can change them; see jaxkd/datasets/ct.py.
            **{"classes": ("NCP", "CP", "Normal"), "split_by": "patient"},
            **{"already_windowed": False, "intensity_offset": 0.0, "fill_gaps": 0},
            **{"pick_largest": False, "allow_tilt": False, "lung_crop": False},
        }
    )
    config.view = ConfigDict({"name": "ct"})
    config.batch_size = config.eval_batch_size = 8
    config.duration = 100.0
    config.optim.update(
        {"name": "adamw", "lr": 1e-4, "weight_decay": 1e-4, "warmup": 3.0}
    )
    return config
