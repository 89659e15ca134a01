"""Options of what a configuration names: of its method, data set, view and network.

They are the arguments of one function each, read from its signature, so that the
command line, the documentation and the call itself cannot disagree.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from jaxkd import datasets, methods, models, views
from jaxkd.core import config as configs
from jaxkd.core import lookup, options
from jaxkd.core.errors import UserError
from jaxkd.core.options import Option as Option
from jaxkd.core.options import types_of as types_of
from jaxkd.training import choice, times
from jaxkd.training.components import student_config

# Arguments that come from the program, or from another key of the configuration.
_FIXED = ("spec", "info", "num_classes", "parent", "name", "dtype")


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
        found = of_function(models.find(name))
    except ValueError as error:
        raise UserError(str(error)) from error
    return found | {"input": Option("image", frozenset({str}))}


def of_function(function: Callable[..., Any]) -> dict[str, Option]:
    """Returns the options of a function: its arguments but those of the program."""
    return options.of_function(function, _FIXED)


def check(config: ConfigDict) -> None:
    """Checks all options of a configuration and of the runs it needs.

    Names, types and ranges, before anything is loaded.

    Args:
      config: of a run, whose other keys are checked.

    Raises:
      UserError: for a name or an option that does not exist, with those that do, or a
        value out of its type or range.
    """
    if config.code:
        lookup.add_folder(config.code)
    data = configs.resolved(config.data)
    name = str(data.pop("name", ""))
    lookup.check(datasets.find(name), data, what=f"data set {name!r}", fixed=_FIXED)
    _check_view(configs.resolved(config.view))
    _check_model(config)
    for name in choice.student_names(config):
        own = student_config(config, name)
        with within(f"config.students.{name}" if config.students else ""):
            _check_model(own)
            _check_loss(str(own.method), own.loss)
            times.check(own)
    for name, need in config.needs.items():
        if not choice.parse(need.get("init_from", "")).path:
            with within(f"config.needs.{name}"):
                check(need)


def unfinished(config: ConfigDict) -> list[str]:
    """Returns what a run's students leave unfinished, a line each.

    Args:
      config: that is checked.
    """
    lines = [
        f"{name or config.name}: {line}"
        for name in choice.student_names(config)
        for line in times.unfinished(student_config(config, name))
    ]
    return list(dict.fromkeys(lines))


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
    """Adds the part of the configuration that is checked to its error."""
    try:
        yield
    except UserError as error:
        if not where:
            raise
        raise UserError(f"{where}: {error}") from error


def resolved(config: ConfigDict) -> dict[str, Any]:
    """Returns what a configuration chooses with all options, also those by default.

    Returns:
      ``data`` and ``view``, and by student ``method``, ``loss`` and ``model``; plain
      data, with the names of what was chosen under ``name``.
    """
    data, view = (configs.resolved(section) for section in (config.data, config.view))
    return {
        "data": _resolved(datasets.find, data),
        "view": _resolved(views.find, view),
        "students": {
            name: _resolved_student(student_config(config, name))
            for name in choice.student_names(config)
        },
    }


def _resolved(find: Callable[[str], Any], given: dict[str, Any]) -> dict[str, Any]:
    name = str(given.pop("name", ""))
    return {"name": name, **options.resolved(find(name), given, _FIXED)}


def _resolved_student(config: ConfigDict) -> dict[str, Any]:
    return {
        "method": config.method,
        "loss": _resolved_loss(config.method, configs.resolved(config.loss)),
        "model": _resolved(models.find, configs.resolved(config.model)),
    }


def _resolved_loss(method: str, given: dict[str, Any]) -> dict[str, Any]:
    if "+" not in method:
        return options.resolved(methods.find(method), given, _FIXED)
    parts = [part.strip() for part in method.split("+")]
    return {part: _resolved_loss(part, given.get(part, {})) for part in parts}


def _check_model(config: ConfigDict) -> None:
    given = configs.resolved(config.model)
    name = str(given.pop("name", ""))
    given.pop("input", None)
    if "dtype" in given:
        raise UserError("config.model has no key dtype: set config.dtype instead.")
    try:
        found = models.find(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    lookup.check(found, given, what=f"model {name!r}", fixed=_FIXED)


def _check_view(given: dict[str, Any]) -> None:
    name = str(given.pop("name", ""))
    lookup.check(views.find(name), given, what=f"view {name!r}", fixed=_FIXED)
    base = given.get("base")
    if isinstance(base, dict) and not lookup.is_own_code(name):
        with within(f"config.view.base of view {name!r}"):
            _check_view(dict(base))


def _check_loss(method: str, given: ConfigDict) -> None:
    if "+" in method:
        for part in method.split("+"):
            own = given.get(part.strip(), {})
            _check_loss(part.strip(), own)
        return
    found = methods.find(method)
    lookup.check(found, dict(given), what=f"method {method!r}", fixed=_FIXED)
