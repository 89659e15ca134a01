"""Options: the arguments of the function that a configuration names, and their values.

An option is declared once, as an argument: its name, its type and its default are those
of the signature. What a number may be follows from its name, as for all weights and
temperatures (``RANGES``); otherwise it stands beside the type, as
``Annotated[float, Range(low=None)]``. Without either, numbers of the library's own
options are not negative, and those of somebody's own code are any.
"""

import fnmatch
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.errors import UserError


class Range(NamedTuple):
    """What a number may be, finite in any case; None for no limit.

    Attributes:
      low: the least.
      high: the largest.
      above: whether it must be above ``low``.
      below: whether it must be below ``high``.
    """

    low: float | None = 0
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Returns whether a number is within."""
        if not math.isfinite(value):
            return False
        too_low = self.low is not None and (
            value <= self.low if self.above else value < self.low
        )
        too_high = self.high is not None and (
            value >= self.high if self.below else value > self.high
        )
        return not (too_low or too_high)

    def __str__(self) -> str:
        limits = []
        if self.low is not None:
            limits.append(f"{'>' if self.above else '>='} {self.low:g}")
        if self.high is not None:
            limits.append(f"{'<' if self.below else '<='} {self.high:g}")
        return " and ".join(limits)


_ANY, _POSITIVE, _SHARE = Range(None), Range(above=True), Range(0, 1)
# Of options by their names, the first that fits: numbers, and those in lists.
RANGES: Mapping[str, Range] = {
    "temperature": _POSITIVE,
    "*_temperature": _POSITIVE,
    "temperatures": _POSITIVE,
    "weight": Range(),
    "*_weight": Range(),
    "*_weights": Range(),
    "momentum": _SHARE,
    "*_momentum": _SHARE,
    "dropout": Range(0, 1, below=True),
    "*_dropout": Range(0, 1, below=True),
    "label_smoothing": _SHARE,
    "mask_ratio": Range(0, 1, below=True),
    "probability": _SHARE,
    "cutout": _SHARE,
    "test_share": _SHARE,
    "warmup": Range(),
    "eta": _SHARE,
    "sigma_data": _POSITIVE,
    "std": _POSITIVE,
    "width": _POSITIVE,
    "size": _POSITIVE,
    "side": _POSITIVE,
    "height": _POSITIVE,
    "heads": _POSITIVE,
    "scale": _POSITIVE,
}


class Option(NamedTuple):
    """An option of a function.

    Attributes:
      default: its value if it is not given; ``inspect.Parameter.empty`` if it must be.
      types: of its values: bool, int, float, str, tuple, dict, NoneType; empty if any
        will do.
      annotation: its type.
      range: of its numbers.
      of_items: whether the range holds for numbers in lists and dictionaries, too.
    """

    default: Any
    types: frozenset[type]
    annotation: Any = inspect.Parameter.empty
    range: Range = _ANY
    of_items: bool = True


def of_function(
    function: Callable[..., Any], without: Iterable[str] = ()
) -> dict[str, Option]:
    """Returns the options of a function: its named arguments but those of the program.

    Args:
      function: or a class, such as a network's module.
      without: arguments that come from the program, not from the user.
    """
    hints = {} if isinstance(function, type) else _hints(function)
    made = getattr(function, "func", function)  # of a partial
    library = (getattr(made, "__module__", None) or "").split(".")[0] == "jaxkd"
    fixed = set(without)
    return {
        name: _option(name, parameter, hints.get(name, parameter.annotation), library)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in fixed and parameter.kind is not parameter.VAR_KEYWORD
    }


def check(value: Any, option: Option, what: str) -> None:
    """Checks type and range of an option's value.

    Args:
      value: as it was given.
      option: such as ``of_function`` returns.
      what: names the option in the error message.

    Raises:
      UserError: if it is of another type, or a number out of its range.
    """
    if value is None and option.default is None:
        return
    expected = _mismatch(value, option.annotation, option.range, option.of_items)
    if expected:
        raise UserError(f"{what} is {value!r}, expected {expected}.")


def resolved(
    function: Callable[..., Any], given: Mapping[str, Any], without: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns all options of a function, given or by default, in types that JSON has.

    Args:
      function: as in ``of_function``.
      given: options by name, which are right.
      without: as in ``of_function``.
    """
    known = of_function(function, without)
    defaults = {name: one.default for name, one in known.items()}
    return {name: _as_json(value) for name, value in {**defaults, **given}.items()}


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if hasattr(value, "items"):
        return {str(key): _as_json(one) for key, one in value.items()}
    return getattr(value, "__qualname__", None) or str(value)


def types_of(value: Any) -> frozenset[type]:
    """Returns the types that may stand in place of a value."""
    if value is None:
        return frozenset()
    if isinstance(value, list | tuple):
        return frozenset({tuple})
    return frozenset({dict if isinstance(value, Mapping) else type(value)})


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations of own code that mean nothing here
        return {}


def _option(
    name: str, parameter: inspect.Parameter, annotation: Any, library: bool
) -> Option:
    declared = None
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *extras = typing.get_args(annotation)
        declared = next((one for one in extras if isinstance(one, Range)), None)
    found = frozenset(_plain(annotation))
    if not found and parameter.default not in (parameter.empty, None):
        found = types_of(parameter.default)
    if declared is None:
        fitting = (RANGES[one] for one in RANGES if fnmatch.fnmatchcase(name, one))
        declared = next(fitting, None)
    limits = declared or (Range() if library else _ANY)
    return Option(parameter.default, found, annotation, limits, declared is not None)


def _plain(annotation: Any) -> Iterable[type]:
    """Yields the plain types of an annotation; none if it allows anything."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [list(_plain(one)) for one in typing.get_args(annotation)]
        yield from (one for part in parts for one in part) if all(parts) else ()
    elif origin is typing.Literal:
        yield from map(type, typing.get_args(annotation))
    elif annotation is None or annotation is types.NoneType:
        yield types.NoneType
    elif annotation in (bool, int, float, str):
        yield annotation
    else:
        kind = origin or annotation
        if isinstance(kind, type) and kind is not inspect.Parameter.empty:
            if issubclass(kind, Path):
                yield str
            elif issubclass(kind, Mapping):
                yield dict
            elif issubclass(kind, Iterable):
                yield tuple


def _mismatch(value: Any, annotation: Any, limits: Range, of_items: bool) -> str:
    """Returns what was expected instead of a value; nothing if it fits."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        found = [_mismatch(value, one, limits, of_items) for one in parts]
        return " or ".join(dict.fromkeys(found)) if all(found) else ""
    if origin is typing.Literal:
        choices = ", ".join(map(repr, parts))
        return "" if value in parts else f"one of {choices}"
    if annotation is None or annotation is types.NoneType:
        return "" if value is None else "None"
    if annotation is bool:
        return "" if isinstance(value, bool | np.bool_) else "True or False"
    if annotation in (int, float):
        return _number_mismatch(value, annotation, limits)
    kind = origin or annotation
    if not isinstance(kind, type) or kind is inspect.Parameter.empty:
        return ""
    if issubclass(kind, str | Path):
        return "" if isinstance(value, str | Path) else "text"
    inner = limits if of_items else _ANY
    if issubclass(kind, Mapping):
        return _mapping_mismatch(value, parts, inner)
    if kind in _SEQUENCES:
        return _sequence_mismatch(value, kind, parts, inner)
    return ""


_SEQUENCES = (tuple, list, typing.get_origin(typing.Sequence[int]))


def _number_mismatch(value: Any, kind: type, limits: Range) -> str:
    number = numbers.Integral if kind is int else numbers.Real
    plain = isinstance(value, number) and not isinstance(value, bool)
    if plain and limits.holds(float(value)):
        return ""
    return f"{'a whole number' if kind is int else 'a number'} {limits}".strip()


def _mapping_mismatch(value: Any, parts: tuple[Any, ...], limits: Range) -> str:
    # ConfigDict is no Mapping, but has the like.
    if not isinstance(value, Mapping) and not hasattr(value, "items"):
        return "a dictionary"
    of_values = parts[1] if len(parts) == 2 else Any
    for one in value.values():
        if expected := _mismatch(one, of_values, limits, True):
            return f"a dictionary, each value {expected}"
    return ""


def _sequence_mismatch(
    value: Any, kind: type, parts: tuple[Any, ...], limits: Range
) -> str:
    if not isinstance(value, list | tuple):
        return "a list"
    fixed = kind is tuple and parts and Ellipsis not in parts
    if fixed and len(value) != len(parts):
        return f"{len(parts)} values"
    of_each = parts if fixed else (parts[0] if parts else Any,) * len(value)
    for one, annotation in zip(value, of_each, strict=True):
        if expected := _mismatch(one, annotation, limits, True):
            return f"a list, each of it {expected}"
    return ""
