"""CMDFD: forged talking heads by correlation distillation (arXiv:2404.19171).

    python -m jaxkd.main --config=configs/cmdfd.py

draws talking heads and their forgeries, trains a recogniser of speech and one of lips,
and then students on real clips, ``faceswap`` (an artefact, sound and lips agree) and
``lipsync`` (no artefact, they disagree): cross entropy alone beside correlation
distillation beside all three terms. Forgeries of three further kinds are never seen.
No download; a quarter of an hour of CPU time; results: docs/cross_modal.md. Variants:

    configs/cmdfd.py:controls    students that start as the teachers, without
                                 distillation; targets of other clips
    configs/cmdfd.py:one_kind    trained on a single forgery that both has an artefact
                                 and disagrees: here distillation does not help
    configs/cmdfd.py:noise       the students tested again with white noise and babble
                                 on the sound
    configs/cmdfd.py:quick       everything in a minute, far too short to learn
    configs/cmdfd.py:files       the network of official size on one's own clips, in
                                 real/ and fake/<kind>/ or csv files in ./data/clips,
                                 with the posteriors of one's own recognisers, in
                                 batches of one length each; not run here, meant for an
                                 accelerator
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose

FRAMES, SIZE = 40, 24
RECOGNISERS = {"real": 200}
MIXED = {"real": 100, "faceswap": 50, "lipsync": 50}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": embedded,
        "controls": controls,
        "one_kind": one_kind,
        "noise": noise,
        "quick": quick,
        "files": files,
    }
    return choose(arg, variants, what="configs/cmdfd.py variant")()


def embedded(**loss) -> ConfigDict:
    """Cross entropy, one term more, and all three; four seeds."""
    config = _small("cmdfd", MIXED, seed=1)
    config.students = configs.students(
        {
            "ce": _loss(correlation_weight=0.0, contrast_weight=0.0, **loss),
            "ce+corr": _loss(contrast_weight=0.0, **loss),
            "all": _loss(**loss),
        }
    )
    config.reference = "ce"
    return config


def controls() -> ConfigDict:
    """Whether the teachers' weights, or any targets at all, would do as well."""
    config = embedded()
    config.name = "cmdfd-controls"
    config.students = configs.students(
        {
            "ce+corr": _loss(contrast_weight=0.0),
            "shuffled": _loss(contrast_weight=0.0, shuffled_targets=True),
            "warm": _loss(
                correlation_weight=0.0, contrast_weight=0.0, start_from_teachers=True
            ),
        }
    )
    config.reference = "ce+corr"
    return config


def one_kind() -> ConfigDict:
    """The mix in which disagreement can be read off the artefact."""
    config = embedded()
    config.name = "cmdfd-one-kind"
    config.data.train = {"real": 100, "lipsync": 100}
    config.data.artefact = ("lipsync",)
    return config


def noise() -> ConfigDict:
    """What is left of every student's AUC where the sound is disturbed."""
    config = embedded(noise_snrs=(20.0, 10.0, 0.0))
    config.name = "cmdfd-noise"
    return config


def quick() -> ConfigDict:
    """A few steps of everything."""
    config = embedded()
    config.name = "cmdfd-quick"
    config.seeds = (1, 2)
    for run in (config, *config.needs.values()):
        run.duration = run.eval_every = run.checkpoint_every = 3
        run.batch_size = run.eval_batch_size = 4
        run.allow_weak_teacher = True
        run.data.update({"frames": 8, "size": 12, "test": 2})
        kinds = (
            {"real": 4, "faceswap": 2, "lipsync": 2} if run is config else {"real": 8}
        )
        run.data.train = kinds
        run.model.name = run.model.name.replace("small", "pico")
    return config


def files() -> ConfigDict:
    """The published recipe, with the slips of its code mended."""
    config = configs.default()
    config.name = "cmdfd-files"
    config.method = "cmdfd"
    config.model = ConfigDict({"name": "talknet", "input": "clip"})
    config.data = ConfigDict(
        {
            **{"name": "av_clips", "root": "data/clips", "posteriors": True},
            **{"frames": 150, "buckets": (50, 100)},
        }
    )
    config.view = ConfigDict({"name": "clips"})
    config.batch_size = config.eval_batch_size = 13  # about 2000 frames
    config.duration = 100.0
    # 1e-5, and 0.95 of it after every epoch.
    config.optim.update(
        {
            **{"name": "adam", "lr": 1e-5, "weight_decay": 0.0, "schedule": "step"},
            **{"milestones": tuple(range(1, 100)), "factor": 0.95},
        }
    )
    return config


def _loss(**options) -> dict:
    return {"method": "cmdfd", "loss": {"keep_teachers": True, **options}}


def _small(name: str, train: dict[str, int], seed: int) -> ConfigDict:
    config = _run(name, train, seed)
    config.method = "cmdfd"
    config.model = ConfigDict({"name": "talknet_small", "input": "clip"})
    config.seeds = (1, 2, 3, 4)
    config.duration = 375
    for part, network in (("audio", "speech_small"), ("video", "lips_small")):
        # Recognisers learn from clips that no detector sees, all of them real.
        need = _run(f"cmdfd-{part}", RECOGNISERS, seed=0)
        need.method = "frame_recognition"
        need.model = ConfigDict({"name": network, "input": "clip"})
        need.duration = 375
        need.data.test_kinds = ("real",)
        config.needs[f"{part}_teacher"] = configs.needed(need)
    return config


def _run(name: str, train: dict[str, int], seed: int) -> ConfigDict:
    config = configs.default()
    config.name = name
    config.data = ConfigDict(
        {
            **{"name": "talking_heads", "train": train, "test": 40, "seed": seed},
            **{"frames": FRAMES, "size": SIZE, "artefact": ("faceswap",)},
            **{"sound_noise": 0.1, "pixel_noise": 8.0},
            "test_kinds": (
                *("real", "faceswap", "lipsync"),
                *("shift", "swap", "envelope"),
            ),
        }
    )
    config.view = ConfigDict({"name": "clips", "augment": False})
    config.batch_size, config.eval_batch_size = 16, 40
    config.unit = "steps"
    config.eval_every = config.checkpoint_every = 125
    config.optim.update({"name": "adam", "lr": 2e-3, "weight_decay": 0.0})
    return config
