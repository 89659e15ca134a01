"""Options of what a configuration names: of its method, data set, view and network.

They are the arguments of one function each, read from its signature, so that the
command line, the documentation and the call itself cannot disagree.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxkd import datasets, methods, models, views
from jaxkd.core.errors import UserError

# Arguments that come from the program, or from another key of the configuration.
_FIXED = ("spec", "info", "num_classes", "parent", "name", "dtype")


class Option(NamedTuple):
    """An option of a function.

    Attributes:
      default: its value if it is not given; ``inspect.Parameter.empty`` if it must be.
      types: of its values: bool, int, float, str, tuple, dict, NoneType; empty if any
        will do.
    """

    default: Any
    types: frozenset[type]


def of_method(name: str) -> dict[str, Option]:
    """Returns the keys of ``config.loss`` for a method.

    Those of a sum of methods are its parts, whose options are one level below.

    Raises:
      UserError: if there is no such method.
    """
    if "+" in name:
        part = Option({}, frozenset({dict}))
        return {one.strip(): part for one in name.split("+")}
    return of_function(methods.find(name))


def of_data(name: str) -> dict[str, Option]:
    """Returns the further keys of ``config.data`` for a data set.

    Raises:
      UserError: if there is no such data set.
    """
    return of_function(datasets.find(name))


def of_view(name: str) -> dict[str, Option]:
    """Returns the further keys of ``config.view`` for a view.

    Raises:
      UserError: if there is no such view.
    """
    return of_function(views.find(name))


def of_model(name: str) -> dict[str, Option]:
    """Returns the further keys of ``config.model`` for a network.

    Raises:
      UserError: if there is no such network.
    """
    try:
        options = of_function(models.find(name))
    except ValueError as error:
        raise UserError(str(error)) from error
    return options | {"input": Option("image", frozenset({str}))}


def of_function(function: Callable[..., Any]) -> dict[str, Option]:
    """Returns the options of a function: its arguments but those of the program."""
    hints = {} if isinstance(function, type) else _hints(function)
    return {
        name: _option(parameter, hints.get(name, parameter.annotation))
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in _FIXED and parameter.kind is not parameter.VAR_KEYWORD
    }


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # annotations of own code that mean nothing here
        return {}


def _option(parameter: inspect.Parameter, annotation: Any) -> Option:
    found = frozenset(_plain(annotation))
    if not found and parameter.default not in (parameter.empty, None):
        found = types_of(parameter.default)
    return Option(parameter.default, found)


def types_of(value: Any) -> frozenset[type]:
    """Returns the types that may stand in place of a value."""
    if value is None:
        return frozenset()
    if isinstance(value, list | tuple):
        return frozenset({tuple})
    return frozenset({dict if isinstance(value, Mapping) else type(value)})


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
