"""Options: the arguments of the function that a configuration names, and their values.

An option is declared once, as an argument: its name, its type and its default are those
of the signature. What a number may be follows from its name, as for all weights and
temperatures (``jaxkd.core.ranges``); otherwise it stands beside the type, as
``Annotated[float, Range(low=None)]``. Without either, numbers of the library's own
options are not negative, and those of somebody's own code are any. Likewise lists: one
of the library is empty only where its default is, unless ``Items`` stands beside it.
"""

import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import ranges
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Items as Items
from jaxkd.core.ranges import Range as Range


class Option(NamedTuple):
    """An option of a function.

    Attributes:
      default: its value if it is not given; ``inspect.Parameter.empty`` if it must be.
      types: of its values: bool, int, float, str, tuple, dict, NoneType; empty if any
        will do.
      annotation: its type.
      limits: of its numbers.
      of_items: whether they hold for numbers in lists and dictionaries, too.
      items: of its lists.
    """

    default: Any
    types: frozenset[type]
    annotation: Any = inspect.Parameter.empty
    limits: Range = ranges.ANY
    of_items: bool = True
    items: Items = Items(least=0)


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
    expected = _mismatch(value, option.annotation, option)
    if expected:
        raise UserError(f"{what} is {value!r}, expected {expected}.")


def check_type(value: Any, annotation: Any, what: str) -> None:
    """Checks a value that is no option of a function, such as a configuration's key.

    Args:
      value: as it was given.
      annotation: its type, with its ``Range`` and ``Items`` beside it.
      what: names the value in the error message.

    Raises:
      UserError: as ``check``.
    """
    extras = _extras(annotation)
    limits = next((one for one in extras if isinstance(one, Range)), ranges.ANY)
    items = next((one for one in extras if isinstance(one, Items)), Items(least=0))
    option = Option(
        inspect.Parameter.empty, frozenset(), annotation, limits, True, items
    )
    check(value, option, what)


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
    extras = _extras(annotation)
    default = parameter.default
    found = frozenset(_plain(annotation))
    if not found and default not in (parameter.empty, None):
        found = types_of(default)
    limits = next((one for one in extras if isinstance(one, Range)), None)
    limits = limits or ranges.named(name, library)
    own = ranges.ANY if not library else Range()
    empty = not library or (isinstance(default, tuple | list) and not default)
    items = next((one for one in extras if isinstance(one, Items)), None)
    return Option(
        default,
        found,
        annotation,
        limits or own,
        library or limits is not None,
        items or Items(least=0 if empty else 1),
    )


def _extras(annotation: Any) -> list[Any]:
    """Returns what stands beside a type, or beside one of several."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return [*parts[1:], *_extras(parts[0])]
    if origin in (typing.Union, types.UnionType):
        return [extra for part in parts for extra in _extras(part)]
    return []


def _plain(annotation: Any) -> Iterable[type]:
    """Yields the plain types of an annotation; none if it allows anything."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
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


def _mismatch(value: Any, annotation: Any, option: Option) -> str:
    """Returns what was expected instead of a value; nothing if it fits."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _mismatch(value, parts[0], option)
    if origin in (typing.Union, types.UnionType):
        found = [_mismatch(value, one, option) for one in parts]
        return " or ".join(dict.fromkeys(found)) if all(found) else ""
    if origin is typing.Literal:
        choices = ", ".join(map(repr, parts))
        return "" if value in parts else f"one of {choices}"
    if annotation is None or annotation is types.NoneType:
        return "" if value is None else "None"
    if annotation is bool:
        return "" if isinstance(value, bool | np.bool_) else "True or False"
    if annotation in (int, float):
        return _number_mismatch(value, annotation, option.limits)
    kind = origin or annotation
    if not isinstance(kind, type) or kind is inspect.Parameter.empty:
        return ""
    if kind is type:
        return _class_mismatch(value, parts)
    if issubclass(kind, str | Path):
        return "" if isinstance(value, str | Path) else "text"
    inner = option if option.of_items else option._replace(limits=ranges.ANY)
    if issubclass(kind, Mapping):
        return _mapping_mismatch(value, parts, inner)
    if origin is tuple and not parts:  # of tuple[()]
        return "" if isinstance(value, list | tuple) and not value else "an empty list"
    if kind in _SEQUENCES:
        return _sequence_mismatch(value, kind, parts, inner)
    return ""


_SEQUENCES = (tuple, list, typing.get_origin(typing.Sequence[int]))


def _number_mismatch(value: Any, kind: type, limits: Range) -> str:
    number = numbers.Integral if kind is int else numbers.Real
    plain = isinstance(value, number) and not isinstance(value, bool)
    if plain and limits.holds(value):
        return ""
    return f"{'a whole number' if kind is int else 'a number'} {limits}".strip()


def _class_mismatch(value: Any, parts: tuple[Any, ...]) -> str:
    base = parts[0] if parts else object
    if isinstance(value, type) and issubclass(value, base):
        return ""
    # No configuration can hold one, since it is written as JSON.
    return (
        f"a class derived from {base.__name__}, in Python alone; in a configuration "
        "leave it out, and choose by name what has it"
    )


def _mapping_mismatch(value: Any, parts: tuple[Any, ...], option: Option) -> str:
    # ConfigDict is no Mapping, but has the like.
    if not isinstance(value, Mapping) and not hasattr(value, "items"):
        return "a dictionary"
    of_values = parts[1] if len(parts) == 2 else Any
    for one in value.values():
        if expected := _mismatch(one, of_values, option):
            return f"a dictionary, each value {expected}"
    return ""


def _sequence_mismatch(
    value: Any, kind: type, parts: tuple[Any, ...], option: Option
) -> str:
    if not isinstance(value, list | tuple):
        return "a list"
    fixed = kind is tuple and parts and Ellipsis not in parts
    if fixed and len(value) != len(parts):
        return f"{len(parts)} values"
    of_each = parts if fixed else (parts[0] if parts else Any,) * len(value)
    inner = option._replace(items=Items(least=0))
    for one, annotation in zip(value, of_each, strict=True):
        if expected := _mismatch(one, annotation, inner):
            return f"a list, each of it {expected}"
    return option.items.mismatch(value)
