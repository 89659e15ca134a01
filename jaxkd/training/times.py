"""Checks that what has a time in a training comes before its end.

A warm-up that lasts longer than the training, or a milestone after it, makes another
recipe than the one that is written down: a learning rate that never falls, a term that
never reaches its weight.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxkd import methods
from jaxkd.core import lookup, options
from jaxkd.core.errors import UserError

# Options of methods that are times, in the run's unit; of an interval, its end.
_NAMES = ("warmup", "freeze", "fade")


class _Time(NamedTuple):
    where: str
    value: Any
    given: bool

    @property
    def end(self) -> float:
        """When it is over."""
        value = self.value
        return max(value) if isinstance(value, list | tuple) else value


def check(config: ConfigDict) -> None:
    """Checks warm-ups, milestones and fades of a student, or of a run with one.

    Of a method's options those that are given; see ``unfinished`` for its defaults.

    Args:
      config: with the student's overrides applied; its keys and options are checked.

    Raises:
      UserError: naming the key whose time is not before the end.
    """
    _check_optim(config.optim, "config.optim", config)
    for label, overrides in config.optimizers.items():
        both = {**config.optim, **overrides}
        _check_optim(both, f"config.optimizers.{label}", config)
    for time in _of_method(str(config.method), config.loss, "config.loss"):
        if time.given and time.end > config.duration:
            raise _late(time.where, time.value, config)


def unfinished(config: ConfigDict) -> list[str]:
    """Returns a line for each of the method's default times that is after the end.

    Args:
      config: as in ``check``.
    """
    return [
        f"{time.where} is {time.value:g} {config.unit} by default, but training lasts "
        f"{config.duration:g}: its weight rises without reaching what is written down."
        for time in _of_method(str(config.method), config.loss, "config.loss")
        if not time.given and time.end > config.duration
    ]


def _check_optim(optim: Mapping[str, Any], where: str, config: ConfigDict) -> None:
    if optim["warmup"] > config.duration:
        raise _late(f"{where}.warmup", optim["warmup"], config)
    milestones = optim["milestones"]
    if optim["schedule"] == "step" and max(milestones, default=0) >= config.duration:
        raise _late(f"{where}.milestones", tuple(milestones), config)


def _late(where: str, value: Any, config: ConfigDict) -> UserError:
    return UserError(
        f"{where} is {value}, but training lasts {config.duration:g} {config.unit}. "
        f"Expected a time before its end: change {where.removeprefix('config.')} with "
        "the duration, or train longer."
    )


def _of_method(method: str, given: Mapping[str, Any], where: str) -> Iterator[_Time]:
    if "+" in method:
        for part in method.split("+"):
            name = part.strip()
            yield from _of_method(name, given.get(name, {}), f"{where}.{name}")
        return
    if lookup.is_own_code(method):
        return  # Its options may mean anything.
    known = options.of_function(methods.find(method), ("spec",))
    for name in _NAMES:
        value = given.get(name, known[name].default) if name in known else None
        if value is not None:
            yield _Time(f"{where}.{name}", value, name in given)
