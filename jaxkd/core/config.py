"""Every configuration key with its default, and configurations as JSON.

A file in ``configs/`` starts from ``default()`` and changes what it needs; keys that
are not listed here are refused, so that a typing error cannot pass silently.
"""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import aliases, config_check, sharding
from jaxkd.core.config_check import SHORTCUTS as SHORTCUTS
from jaxkd.core.config_check import STUDENT_KEYS as STUDENT_KEYS
from jaxkd.core.errors import UserError

# Keys that change how a run is executed but not its result: a run may be resumed with
# other values than it was started with.
RUNTIME_KEYS = (
    "allow_weak_teacher",
    "checkpoint_every",
    "code",
    "keep",
    "max_skipped",
    "mesh",
    "sharding",
    "steps_per_call",
    "study_loop",
    "workers",
    "writers",
)

_FREE = (
    "data",
    "loss",
    "model",
    "needs",
    "optimizers",
    "students",
    "teachers",
    "view",
)

# Where config.json has all options, also those by default; no key of a configuration.
RESOLVED = "resolved"


def default() -> ConfigDict:
    """Returns the default configuration: one supervised ResNet-20 on ``glyph100``."""
    config = ConfigDict()
    config.name = ""  # shown in tables; main.py fills in the name of the config file

    # Folder of own code, which "file.py:function" and "package.module:function" name;
    # main.py fills in that of the config file.
    config.code = ""

    # What is trained. A student of ``students`` overrides the keys of STUDENT_KEYS;
    # without any, the run trains the one student that these describe.
    config.method = "supervised"
    config.loss = ConfigDict()  # keyword arguments of the method's ``make``
    config.model = ConfigDict({"name": "resnet20"})  # further keys: model options
    config.students = students({})  # students({name: overrides})
    config.seeds = (0,)
    config.reference = ""  # the student that others are compared with
    config.needs = (
        ConfigDict()
    )  # name -> needed(config of the run that must come first)
    # Whether a teacher may be near chance on this run's test examples.
    config.allow_weak_teacher = False
    # Folder of a run whose network the students start from (fine-tuning); of a needed
    # run: that is taken instead of training it. "FOLDER:student=kd,seed=2,use=best"
    # chooses one of several.
    config.init_from = ""

    # Several teachers as one, for methods that compare logits: ``weights`` are needed
    # runs by name with their weights, ``combine`` is "logits" or "probabilities".
    config.teachers = ConfigDict({"combine": "logits", "weights": {}})

    # What it is trained on. ``shared``: all seeds see the same batches and views, so
    # that one teacher forward serves them all; ``per_seed``: each seed draws its own.
    config.data = ConfigDict({"name": "glyph100"})
    config.view = ConfigDict({"name": "plain"})
    config.batches = "shared"
    config.batch_size = 128  # global, over all devices
    config.eval_batch_size = 500  # likewise; rounded up to divide over the devices
    config.workers = 8  # reader threads, for data that is read from files

    # ``visits``: epochs after which the views of an example repeat; 0 makes new ones
    # for ever. ``cache``: compute what needed networks say of those views before
    # training, and keep it on disk beside them: logits of all classes, or of the
    # ``top_k`` most probable ones.
    config.targets = ConfigDict({"visits": 0, "cache": False, "top_k": 0})

    # How long, in units of "epochs" or "steps"; warm-ups, milestones and intervals
    # are counted in the same unit.
    config.unit = "epochs"
    config.duration = 1.0
    config.eval_every = 1.0
    config.checkpoint_every = 1.0

    config.optim = ConfigDict(
        {
            "name": "sgd",  # sgd, adam, adamw
            "lr": 0.1,
            "momentum": 0.9,  # of adam and adamw: beta1
            "nesterov": False,
            "beta2": 0.999,  # of adam and adamw
            "clip_value": 0.0,  # cuts each entry of a gradient; 0 cuts none
            "clip_norm": 0.0,  # then scales all to at most this norm; 0 scales none
            "weight_decay": 5e-4,  # coupled (L2) for sgd and adam, decoupled for adamw
            "schedule": "cosine",  # cosine, step, constant
            "warmup": 0.0,
            "milestones": (),  # schedule "step": lr times ``factor`` at each
            "factor": 0.1,
        }
    )
    # Label of a method's parameters, such as "discriminator" -> what differs in optim.
    config.optimizers = ConfigDict()
    config.accumulate = 1  # gradient accumulation: micro-batches per step
    config.ema = 0.0  # decay of the parameters' moving average; 0 keeps none
    config.dtype = "float32"  # of the networks; losses are float32 at least

    # How it is executed. A size of -1 takes the devices that are left.
    config.mesh = ConfigDict({"seed": 0, "data": -1, "fsdp": 1})
    # What lies along "fsdp": pairs of a pattern, searched in the path of a leaf of the
    # state, and a tactic: replicate, fsdp (the largest axis, of large leaves), or the
    # number of an axis. The first that fits counts. See ``sharding.state``.
    config.sharding = sharding.RULES
    config.study_loop = "map"  # map: students in turn; vmap: side by side
    config.steps_per_call = 20  # steps per dispatch where the data is in memory
    config.keep = 2  # newest checkpoints to keep
    # Where metrics are copied, beside metrics.jsonl: tensorboard, wandb.
    config.writers = ("tensorboard",)
    config.max_skipped = 10  # steps that may be skipped since they were not finite
    return _lock(config)


def _lock(config: ConfigDict) -> ConfigDict:
    config.lock()
    for key in _FREE:  # their keys belong to others, who check them
        config[key].unlock()
    return config


def copied(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a run's configuration and of those that it needs."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        # A copy sorts its keys; students keep the order of the table.
        copy.students = students(
            {name: copy.students[name] for name in config.students}
        )
        copy.needs = ConfigDict({k: copied(need) for k, need in config.needs.items()})
    return _lock(copy)


def students(table: Mapping[str, Any]) -> ConfigDict:
    """Makes ``config.students`` from name -> overrides, in the order of the table."""
    return ConfigDict(table, sort_keys=False)


def needed(config: ConfigDict, init_from: str = "") -> ConfigDict:
    """Marks a configuration as a run that another needs.

    Args:
      config: the needed run's own configuration.
      init_from: the workdir of a finished run, or a converted checkpoint, to take
        instead of training it; of a study, with the student (``"runs/a:student=kd"``).

    Raises:
      UserError: if the configuration starts from another run itself.
    """
    if config.get("init_from"):
        raise UserError(
            f"The needed run {config.name!r} has init_from {config.init_from!r} of its "
            "own, which would be taken instead of training it. Fine-tune it as a run "
            "by itself, and give needed(config, init_from=) its folder."
        )
    config = copied(config)
    with config.unlocked():
        config.init_from = init_from
    return _lock(config)


def standalone(need: ConfigDict) -> ConfigDict:
    """Returns a needed run's configuration as it would be started by hand."""
    config = copied(need)
    with config.unlocked():
        config.init_from = ""
    return _lock(config)


def resolved(config: ConfigDict) -> dict[str, Any]:
    """Returns the configuration as plain JSON types."""
    return json.loads(config.to_json_best_effort(sort_keys=False))


def check(config: ConfigDict) -> None:
    """Checks names, types and ranges before anything is loaded or compiled.

    Raises:
      UserError: for an unknown key or an impossible value.
    """
    config_check.check(config, default())


def from_json(tree: Mapping[str, Any]) -> ConfigDict:
    """Rebuilds a configuration from what ``resolved`` returned.

    Raises:
      UserError: if it has keys that this version does not know.
    """
    tree = aliases.upgrade({k: v for k, v in tree.items() if k != RESOLVED})
    config_check.check_keys(tree, default(), "config.json", optional=SHORTCUTS)
    config = default()
    tree = tree | {"optim": {**default().optim, **tree.get("optim", {})}}
    with config.unlocked():
        for key, value in tree.items():
            config[key] = value if not isinstance(value, dict) else ConfigDict(value)
        # Students keep the order of the table; JSON has kept it, ConfigDict sorts.
        config.students = students(tree["students"])
        config.needs = ConfigDict({k: from_json(v) for k, v in tree["needs"].items()})
    return _lock(config)


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lists the keys, one line each, in which two resolved configurations differ.

    Keys that do not change the result (``RUNTIME_KEYS``) are passed over. The order of
    students counts: it is that of the stacked states in a checkpoint.
    """
    return [
        f"{key}: {'(absent)' if before is None else before} -> "
        f"{'(absent)' if after is None else after}"
        for key, (before, after) in changes(old, new).items()
    ]


def changes(
    old: dict[str, Any], new: dict[str, Any]
) -> dict[str, tuple[Any | None, Any | None]]:
    """Returns the keys that ``difference`` lists, with both values; None if absent."""
    old = aliases.with_defaults(aliases.upgrade(old), resolved(default()))
    old, new = flat(_comparable(old)), flat(_comparable(new))
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def _comparable(tree: dict[str, Any]) -> dict[str, Any]:
    left_out = (*RUNTIME_KEYS, RESOLVED)
    kept = {key: value for key, value in tree.items() if key not in left_out}
    kept["order of students"] = list(tree["students"])
    kept["needs"] = {k: _comparable(need) for k, need in tree["needs"].items()}
    return kept


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dictionaries, by their keys joined with dots."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(flat(value, f"{prefix}.{key}" if prefix else key))
    return leaves
