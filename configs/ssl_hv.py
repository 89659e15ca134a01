"""Handwriting verification with few labelled writers, after pre-training on many.

    python -m jaxkd.main --config=configs/ssl_hv.py

Draws 200 writers of the word "and", pre-trains a small encoder on their words without
labels by six methods (arXiv:2405.18320 compares thirteen), and verifies 60 other
writers with a head trained on pairs of 20 labelled ones, beside an encoder trained from
scratch on these and on the pairs of all 200 (in the folder all_writers), raw pixels,
HOG and GSC-style bits. Three seeds, each with labelled writers of its own; 25 minutes
of CPU time, no download. docs/handwriting.md says what came out.

    configs/ssl_hv.py:all          all thirteen methods
    configs/ssl_hv.py:vicreg       VICReg alone beside the encoder from scratch
    configs/ssl_hv.py:quick        few steps: a look at how it works
    configs/ssl_hv.py:cedar        the AND images of CEDAR, or any folder of writers, in
                                   data/AND; ResNet-18, batch 256, 100 epochs, the heads
                                   of the paper. Never run here
    configs/ssl_hv.py:pretrain     the full-size pre-training alone (VICReg), for
                                   --mode=compile
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose

SEEDS = (0, 1, 2)
SIDE = 32
LABELLED = 0.1  # of the writers
CONV = {"name": "small_conv_flat"}
VIT = {"name": "vit_micro4"}
FLOW = {"name": "real_nvp_small"}

# Name of a pre-training -> method, its options, network, and what else differs.
MAIN: dict[str, dict] = {
    "vicreg": {"loss": {"width": 256}},
    "barlow_twins": {"loss": {"width": 256}},
    "simclr": {"loss": {"hidden": 128, "output": 64, "temperature": 0.2}},
    "simsiam": {"loss": {"hidden": 128, "bottleneck": 32, "output": 64}},
    "vae": {"loss": {"latents": 64, "widths": (32, 16, 16)}, "view": {"views": 0}},
    "mae": {
        "loss": {"width": 64, "heads": 4},
        "model": VIT,
        "view": {"views": 0},
    },
    "vicreg_lightly": {
        "method": "vicreg",
        "loss": {"width": 256},
        "view": {"name": "lightly", "method": "vicreg"},
    },
}
OTHERS: dict[str, dict] = {
    "moco": {"loss": {"hidden": 128, "output": 64, "queue": 1024}},
    "byol": {"loss": {"hidden": 256, "output": 64, "momentum": 0.98}},
    "fastsiam": {
        "loss": {"hidden": 128, "bottleneck": 32, "output": 64},
        "view": {"views": 4},
    },
    "dino": {
        "loss": {"hidden": 128, "bottleneck": 32, "prototypes": 256, "freeze": 20.0},
        "view": {"views": 2},
    },
    "aim": {
        "loss": {"width": 128},
        "model": {"name": "vit_micro4_aim"},
        "view": {"views": 0},
    },
    "bigan": {"loss": {"latents": 64, "widths": (64, 32, 16)}, "view": {"views": 0}},
    "flow": {"model": FLOW, "view": {"views": 0}},
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": lambda: compare(MAIN),
        "all": lambda: compare(MAIN | OTHERS),
        "vicreg": lambda: compare({"vicreg": MAIN["vicreg"]}),
        "quick": quick,
        "cedar": cedar,
        "pretrain": full_pretraining,
    }
    return choose(arg, variants, what="configs/ssl_hv.py variant")()


def compare(pretrainings: dict[str, dict]) -> ConfigDict:
    """Verification with all of these pre-trained encoders beside one from scratch."""
    config = verification()
    config.needs = ConfigDict(
        {
            name: configs.needed(pretraining(name, **p))
            for name, p in pretrainings.items()
        }
    )
    config.needs.all_writers = configs.needed(verification(labelled=1.0))
    rows = {"supervised": {"method": "handwriting_pairs"}}
    for name, options in pretrainings.items():
        rows[name] = start(name, options.get("model", CONV)["name"], "frozen")
    tuned = start("vicreg", CONV["name"], "finetune")
    rows["vicreg_finetuned"] = {**tuned, "optimizers": {"encoder": {"lr": 2e-4}}}
    config.students = configs.students(rows)
    config.reference = "supervised"
    return config


def start(name: str, encoder: str, mode: str) -> dict:
    """A row of the study: pairs with the encoder of a needed run."""
    return {
        "method": "handwriting_pairs",
        "loss": {"encoder": mode, "start_from": name},
        "model": {"name": "siamese", "encoder": encoder, "input": "pair"},
    }


def verification(labelled: float = LABELLED) -> ConfigDict:
    """Pairs of the labelled writers: AdamW 2e-3, cosine, 200 steps of 64 pairs."""
    config = configs.default()
    config.name = "handwriting"
    config.method = "handwriting_pairs"
    config.model = ConfigDict(
        {"name": "siamese", "encoder": CONV["name"], "input": "pair"}
    )
    config.data = ConfigDict(
        {"name": "handwriting", "task": "pairs", "size": SIDE, "labelled": labelled}
    )
    # The page and the pen vary; nothing is cut off.
    config.view = ConfigDict(
        {
            "name": "handwriting",
            "views": 0,
            "distort_image": True,
            "crop": (1.0, 1.0),
            "cutout": 0.0,
        }
    )
    config.seeds, config.batches = SEEDS, "per_seed"
    config.batch_size, config.eval_batch_size = 64, 500
    config.unit, config.duration = "steps", 200.0
    config.eval_every = config.checkpoint_every = 200.0
    config.optim.update(
        {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "warmup": 15.0}
    )
    return config


def pretraining(
    name: str,
    method: str = "",
    loss: dict | None = None,
    model: dict | None = None,
    view: dict | None = None,
) -> ConfigDict:
    """All writers' words without labels: AdamW 2e-3, cosine, 250 steps of 128."""
    config = configs.default()
    config.name = name
    config.method = method or name
    config.model = ConfigDict(model or CONV)
    config.loss = ConfigDict(loss or {})
    config.data = ConfigDict({"name": "handwriting", "size": SIDE})
    config.view = ConfigDict({"name": "handwriting", **(view or {})})
    config.seeds, config.batches = SEEDS, "per_seed"
    config.batch_size, config.eval_batch_size = 128, 300
    config.unit, config.duration = "steps", 250.0
    config.eval_every = config.checkpoint_every = 250.0
    config.optim.update(
        {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-3, "warmup": 20.0}
    )
    if config.method in ("simsiam", "fastsiam"):
        config.optim.update(
            {"name": "sgd", "lr": 0.06, "momentum": 0.9, "weight_decay": 1e-4}
        )
    if config.method == "bigan":
        config.optim.update({"name": "adam", "lr": 2e-4, "momentum": 0.5})
        config.optim.weight_decay = 0.0
        config.optimizers = ConfigDict({"discriminator": {"lr": 2e-4}})
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = compare({name: MAIN[name] for name in ("vicreg", "vae")})
    data = {"writers": 30, "test_writers": 6, "samples": 4}
    for part in (config, *config.needs.values()):
        part.seeds = (0,)
        part.data.update(data)
        part.batch_size = 16
        part.duration = part.eval_every = part.checkpoint_every = 10.0
        part.optim.warmup = 1.0
    return config


def full_pretraining() -> ConfigDict:
    """VICReg at the size of the paper: ResNet-18, batch 256, 100 epochs, SGD."""
    config = pretraining("vicreg", model={"name": "ResNet18"})
    _full(config)
    config.data.update({"size": 64})
    return config


def cedar() -> ConfigDict:
    """A folder of real writers: VICReg, Barlow Twins and VAE on ResNet-18."""
    root = {"root": "data/AND", "size": 64}
    config = verification()
    config.model.encoder = "ResNet18"
    config.needs = ConfigDict()
    rows = {"supervised": {"method": "handwriting_pairs"}}
    for name in ("vicreg", "barlow_twins", "simclr", "vae"):
        view = {"views": 0} if name == "vae" else {}
        need = pretraining(name, model={"name": "ResNet18"}, view=view)
        _full(need)
        need.data.update(root)
        config.needs[name] = configs.needed(need)
        rows[name] = start(name, "ResNet18", "frozen")
    config.data.update(root)
    config.batch_size, config.unit, config.duration = 256, "epochs", 50.0
    config.eval_every = config.checkpoint_every = 5.0
    config.optim.update({"name": "adamw", "lr": 1e-3, "warmup": 1.0})
    config.students = configs.students(rows)
    config.reference = "supervised"
    return config


def _full(config: ConfigDict) -> None:
    """SGD 0.06, momentum 0.9, weight decay 1e-4, 5 % warm-up, cosine; 100 epochs."""
    config.batch_size = 256
    config.unit, config.duration = "epochs", 100.0
    config.eval_every = config.checkpoint_every = 10.0
    config.optim.update(
        {
            "name": "sgd",
            "lr": 0.06,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "warmup": 5.0,
        }
    )
