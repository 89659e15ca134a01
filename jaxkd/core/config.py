"""Every configuration key with its default, and the checks that need no data.

A file in ``configs/`` starts from ``default()`` and changes what it needs; keys that
are not listed here are refused, so that a typing error cannot pass silently.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import aliases, sharding
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

# Of epochs and of steps, which are counted in 32 bits.
_MOST = 1_000_000_000
# What a workdir holds beside the folders of needed runs.
_TAKEN = (
    *("checkpoints", "damaged", "figures", "targets", "tensorboard", "wandb", "lock"),
    *("config.json", "confusion.npz", "eval.json", "metrics.jsonl", "report.html"),
    "results.json",
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

CHOICES = {
    "unit": ("epochs", "steps"),
    "batches": ("shared", "per_seed"),
    "dtype": ("float32", "bfloat16"),
    "study_loop": ("map", "vmap"),
}

# Where config.json has all options, also those by default; no key of a configuration.
RESOLVED = "resolved"

# Keys that a configuration may have beside those of ``default``: names of networks, to
# which those of the run and its needed runs refer (``configs/folder.py``).
SHORTCUTS = ("teacher", "second", "student")

# How the logits of several teachers become those of one.
COMBINATIONS = ("logits", "probabilities")

STUDENT_KEYS = ("method", "loss", "model", "optim", "optimizers", "duration")


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


def _copy(config: ConfigDict) -> ConfigDict:
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        # A copy sorts its keys; students keep the order of the table.
        copy.students = students(
            {name: copy.students[name] for name in config.students}
        )
        copy.needs = ConfigDict({k: _copy(need) for k, need in config.needs.items()})
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
    config = _copy(config)
    with config.unlocked():
        config.init_from = init_from
    return _lock(config)


def standalone(need: ConfigDict) -> ConfigDict:
    """Returns a needed run's configuration as it would be started by hand."""
    config = _copy(need)
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
    known = default()
    _check_keys(config, known, "config", optional=SHORTCUTS)
    if not isinstance(config.get("init_from", ""), str):
        raise UserError(
            f"config.init_from is {config.init_from!r}, expected the folder of a run."
        )
    _check_keys(config.mesh, known.mesh, "config.mesh")
    _check_sharding(config.sharding)
    _check_targets(config.targets)
    _check_training(config, "config")
    for name, overrides in config.students.items():
        _check_student(name, overrides)
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            raise UserError(
                f"config.{key} is {config[key]!r}, expected one of "
                f"{', '.join(choices)}."
            )
    for key in (
        "batch_size",
        "eval_batch_size",
        "accumulate",
        "steps_per_call",
        "keep",
    ):
        if not _is_whole(config[key], least=1):
            raise UserError(
                f"config.{key} is {config[key]!r}, expected a whole number >= 1."
            )
    if not _is_whole(config.max_skipped):
        raise UserError(
            f"config.max_skipped is {config.max_skipped!r}, expected a whole number."
        )
    if not _is_number(config.ema) or not 0 <= config.ema < 1:
        raise UserError(
            f"config.ema is {config.ema}, expected 0 (none) or a decay < 1."
        )
    seeds = list(config.seeds)
    fit = all(_is_whole(seed) and seed < 2**32 for seed in seeds)
    if not seeds or not fit or len(set(seeds)) < len(seeds):
        raise UserError(
            f"config.seeds is {config.seeds}, expected one or more whole numbers from "
            "0 to 2**32 - 1, all different."
        )
    if config.batch_size % config.accumulate:
        raise UserError(
            f"config.batch_size {config.batch_size} does not divide into "
            f"config.accumulate = {config.accumulate} micro-batches."
        )
    if config.reference and config.reference not in config.students:
        raise UserError(
            f"config.reference is {config.reference!r}, which is no student. "
            f"Students: {', '.join(config.students)}."
        )
    _check_teachers(config)
    for name, need in config.needs.items():
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name) or name in _TAKEN:
            raise UserError(
                f"config.needs has a run of the name {name!r}, which would be a folder "
                "in the workdir. Expected letters, digits and . _ - only, and none of "
                f"{', '.join(_TAKEN)}."
            )
        if not isinstance(need, ConfigDict):
            raise UserError(
                f"config.needs.{name} is {need!r}, expected "
                "jaxkd.core.config.needed(configuration)."
            )
        check(need)


def from_json(tree: Mapping[str, Any]) -> ConfigDict:
    """Rebuilds a configuration from what ``resolved`` returned.

    Raises:
      UserError: if it has keys that this version does not know.
    """
    tree = aliases.upgrade({k: v for k, v in tree.items() if k != RESOLVED})
    _check_keys(tree, default(), "config.json", optional=SHORTCUTS)
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


def _check_keys(given, known, where, optional=()):
    if not isinstance(given, Mapping | ConfigDict):
        raise UserError(f"{where} is {given!r}, expected a dictionary.")
    unknown = sorted(set(given) - set(known) - set(optional))
    if unknown:
        raise UserError(
            f"{where} has no key {', '.join(unknown)}. "
            f"Keys: {', '.join(sorted(known))}."
        )


def _check_student(name: str, overrides: Any) -> None:
    where = f"config.students.{name}"
    if not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(
            f"{name!r} is no name for a student: metrics are recorded under it. "
            "Expected letters, digits and . _ + - only."
        )
    _check_keys(overrides, STUDENT_KEYS, where)
    _check_training(overrides, where)


def _check_sharding(rules: Any) -> None:
    for rule in rules:
        pair = isinstance(rule, list | tuple) and len(rule) == 2
        if not pair or not isinstance(rule[0], str) or not _is_tactic(rule[1]):
            raise UserError(
                f"config.sharding has {rule!r}, expected (pattern, tactic) with one of "
                f"{', '.join(sharding.TACTICS)} or the number of an axis."
            )
        try:
            re.compile(rule[0])
        except re.error as error:
            raise UserError(
                f"config.sharding: {rule[0]!r} is no regular expression: {error}."
            ) from None


def _is_tactic(tactic: Any) -> bool:
    whole = isinstance(tactic, int) and not isinstance(tactic, bool)
    return whole or tactic in sharding.TACTICS


def _check_teachers(config: ConfigDict) -> None:
    teachers = config.teachers
    _check_keys(teachers, default().teachers, "config.teachers")
    if teachers.combine not in COMBINATIONS:
        raise UserError(
            f"config.teachers.combine is {teachers.combine!r}, expected one of "
            f"{', '.join(COMBINATIONS)}."
        )
    weights = teachers.weights
    if weights and "teacher" in config.needs:
        # Which of them is meant would depend on the method.
        raise UserError(
            "config.teachers.weights makes one teacher of several, but config.needs "
            "has a 'teacher' too. Give that run another name."
        )
    for name, weight in weights.items():
        if name not in config.needs:
            raise UserError(
                f"config.teachers.weights has {name!r}, which is no needed run: "
                f"{', '.join(config.needs) or 'there is none'}."
            )
        if not _is_number(weight) or weight <= 0:
            raise UserError(
                f"config.teachers.weights.{name} is {weight!r}, expected a number > 0."
            )


def _check_targets(targets: ConfigDict) -> None:
    _check_keys(targets, default().targets, "config.targets")
    for key in ("visits", "top_k"):
        if not _is_whole(targets[key]):
            raise UserError(
                f"config.targets.{key} is {targets[key]!r}, expected a whole number."
            )
    if targets.cache and not targets.visits:
        raise UserError(
            "config.targets.cache needs views that repeat, but config.targets.visits "
            "is 0. Expected the number of epochs after which they do."
        )


def _check_training(config: Mapping[str, Any], where: str) -> None:
    """Checks what a run and a student have in common."""
    optim = config.get("optim", {})
    _check_optim(optim, f"{where}.optim")
    for label, overrides in config.get("optimizers", {}).items():
        _check_optim(overrides, f"{where}.optimizers.{label}")
    if not isinstance(config.get("method", ""), str):
        raise UserError(f"{where}.method is {config['method']!r}, expected a name.")
    for key in ("duration", "eval_every", "checkpoint_every"):
        if key in config and not (_is_number(config[key]) and 0 < config[key] <= _MOST):
            raise UserError(
                f"{where}.{key} is {config[key]!r}, expected a number > 0, at most "
                f"{_MOST:,}."
            )


def _check_optim(optim: Mapping[str, Any], where: str) -> None:
    _check_keys(optim, default().optim, where)
    numbers = ("lr", "weight_decay", "momentum", "warmup", "factor", "beta2")
    for key in (*numbers, "clip_value", "clip_norm"):
        if key in optim and (not _is_number(optim[key]) or optim[key] < 0):
            raise UserError(f"{where}.{key} is {optim[key]!r}, expected a number >= 0.")
    for key in ("momentum", "beta2"):
        if optim.get(key, 0) >= 1:
            raise UserError(
                f"{where}.{key} is {optim[key]!r}, expected a number below 1."
            )
    milestones = optim.get("milestones", ())
    if not isinstance(milestones, list | tuple) or not all(map(_is_number, milestones)):
        raise UserError(f"{where}.milestones is {milestones!r}, expected numbers.")


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
