"""Checks the keys of a configuration that need no data, by what is declared of them.

The options of what it names, such as those of its method, are arguments of functions:
see ``jaxkd.core.options``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from jaxkd.core import options, sharding
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import PART, POSITIVE, Items, Range

# Keys that a configuration may have beside those of ``default``: names of networks, to
# which those of the run and its needed runs refer (``configs/folder.py``).
SHORTCUTS = ("teacher", "second", "student")

STUDENT_KEYS = ("method", "loss", "model", "optim", "optimizers", "duration")

# What a workdir holds beside the folders of needed runs.
_TAKEN = (
    *("checkpoints", "damaged", "figures", "targets", "tensorboard", "wandb", "lock"),
    *("config.json", "confusion.npz", "eval.json", "metrics.jsonl", "report.html"),
    "results.json",
)

_Count = Annotated[int, Range(low=1)]
_Whole = Annotated[int, Range()]
_Number = Annotated[float, Range()]
_Part = Annotated[float, PART]
# In epochs or in steps, which are counted in 32 bits.
_Time = Annotated[float, Range(0, 1_000_000_000, above=True)]

# Keys of a run and of its sections: the type, and what numbers may be.
KEYS: Mapping[str, Any] = {
    "name": str,
    "code": str,
    "init_from": str,
    "reference": str,
    "allow_weak_teacher": bool,
    "seeds": Annotated[Sequence[int], Range(0, 2**32 - 1), Items()],
    "batches": Literal["shared", "per_seed"],
    "batch_size": _Count,
    "eval_batch_size": _Count,
    "workers": _Count,
    "unit": Literal["epochs", "steps"],
    "accumulate": _Count,
    "ema": _Part,
    "dtype": Literal["float32", "bfloat16"],
    "study_loop": Literal["map", "vmap"],
    "steps_per_call": _Count,
    "keep": _Count,
    "writers": Sequence[str],
    "max_skipped": _Whole,
}
# Those that a run and a student have in common.
TRAINING: Mapping[str, Any] = {
    "method": str,
    "duration": _Time,
    "eval_every": _Time,
    "checkpoint_every": _Time,
}
OPTIM: Mapping[str, Any] = {
    "name": Literal["sgd", "adam", "adamw"],
    "lr": _Number,
    "momentum": _Part,
    "nesterov": bool,
    "beta2": _Part,
    "clip_value": _Number,
    "clip_norm": _Number,
    "weight_decay": _Number,
    "schedule": Literal["cosine", "step", "constant"],
    "warmup": _Number,
    "milestones": Annotated[Sequence[float], Range()],
    "factor": _Number,
}
# How the logits of several teachers become those of one.
TEACHERS: Mapping[str, Any] = {
    "combine": Literal["logits", "probabilities"],
    "weights": Mapping[str, Any],
}
TARGETS: Mapping[str, Any] = {"visits": _Whole, "cache": bool, "top_k": _Whole}
# -1 takes the devices that are left.
MESH: Mapping[str, Any] = dict.fromkeys(
    ("seed", "data", "fsdp"), Annotated[int, Range(-1)]
)


def check(config: ConfigDict, known: ConfigDict) -> None:
    """Checks names, types and ranges of a configuration and of the runs it needs.

    Args:
      config: of a run.
      known: the default one, which has all keys.

    Raises:
      UserError: for an unknown key or an impossible value.
    """
    check_keys(config, known, "config", optional=SHORTCUTS)
    _check_values(config, KEYS, "config")
    if len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"config.seeds is {config.seeds}, expected all different.")
    _check_section(config.mesh, MESH, "config.mesh")
    _check_sharding(config.sharding)
    _check_targets(config.targets)
    _check_training(config, "config")
    for name, overrides in config.students.items():
        _check_student(name, overrides)
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
        check(need, known)


def check_keys(
    given: Any, known: Iterable[str], where: str, optional: Iterable[str] = ()
) -> None:
    """Checks that a section of a configuration has no other keys than there are.

    Args:
      given: the section.
      known: its keys.
      where: names it in the error message.
      optional: further keys that it may have.

    Raises:
      UserError: naming the keys that there are.
    """
    if not isinstance(given, Mapping | ConfigDict):
        raise UserError(f"{where} is {given!r}, expected a dictionary.")
    unknown = sorted(set(given) - set(known) - set(optional))
    if unknown:
        raise UserError(
            f"{where} has no key {', '.join(unknown)}. "
            f"Keys: {', '.join(sorted(known))}."
        )


def _check_section(given: Any, declared: Mapping[str, Any], where: str) -> None:
    check_keys(given, declared, where)
    _check_values(given, declared, where)


def _check_values(
    given: Mapping[str, Any], declared: Mapping[str, Any], where: str
) -> None:
    for key, annotation in declared.items():
        if key in given:
            options.check_type(given[key], annotation, f"{where}.{key}")


def _check_student(name: str, overrides: Any) -> None:
    where = f"config.students.{name}"
    if not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(
            f"{name!r} is no name for a student: metrics are recorded under it. "
            "Expected letters, digits and . _ + - only."
        )
    check_keys(overrides, STUDENT_KEYS, where)
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
    _check_section(teachers, TEACHERS, "config.teachers")
    weights = teachers.weights
    if weights and "teacher" in config.needs:
        # Which of them is meant would depend on the method.
        raise UserError(
            "config.teachers.weights makes one teacher of several, but config.needs "
            "has a 'teacher' too. Give that run another name."
        )
    for name in weights:
        if name not in config.needs:
            raise UserError(
                f"config.teachers.weights has {name!r}, which is no needed run: "
                f"{', '.join(config.needs) or 'there is none'}."
            )
        where = f"config.teachers.weights.{name}"
        options.check_type(weights[name], Annotated[float, POSITIVE], where)


def _check_targets(targets: ConfigDict) -> None:
    _check_section(targets, TARGETS, "config.targets")
    if targets.cache and not targets.visits:
        raise UserError(
            "config.targets.cache needs views that repeat, but config.targets.visits "
            "is 0. Expected the number of epochs after which they do."
        )


def _check_training(config: Mapping[str, Any], where: str) -> None:
    """Checks what a run and a student have in common."""
    _check_values(config, TRAINING, where)
    _check_section(config.get("optim", {}), OPTIM, f"{where}.optim")
    for label, overrides in config.get("optimizers", {}).items():
        _check_section(overrides, OPTIM, f"{where}.optimizers.{label}")
