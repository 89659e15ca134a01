"""Finds a module or a function by the name in a config, and calls it with options.

There is no registry: a data set or a method is a module of a package, its options are
the arguments of one function, and both are read from the code that exists.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from jaxkd.core.errors import UserError

T = TypeVar("T")


def module(package: str, name: str, attribute: str) -> ModuleType:
    """Imports ``package.name``, which must define ``attribute``.

    Args:
      package: dotted name of the package, such as ``"jaxkd.datasets"``.
      name: of a public module in it.
      attribute: what makes a module one of those meant, such as ``"load"``.

    Raises:
      UserError: if there is no such module; the message lists those that there are.
    """
    path = importlib.import_module(package).__path__
    public = sorted(m.name for m in pkgutil.iter_modules(path) if m.name[0] != "_")
    if name in public:
        found = importlib.import_module(f"{package}.{name}")
        if hasattr(found, attribute):
            return found
    modules = {each: importlib.import_module(f"{package}.{each}") for each in public}
    expected = [each for each, m in modules.items() if hasattr(m, attribute)]
    raise UserError(f"{package} has no {name!r}, expected {_one_of(name, expected)}.")


def choose(name: Any, choices: Mapping[Any, T], *, what: str) -> T:
    """Returns ``choices[name]``.

    Args:
      name: the choice made.
      choices: all there are.
      what: describes the choice in the error message, such as ``"view"``.

    Raises:
      UserError: if there is no such choice; the message lists those that there are.
    """
    if name not in choices:
        raise UserError(f"{what} is {name!r}, expected {_one_of(name, choices)}.")
    return choices[name]


def call(
    function: Callable[..., T], options: Mapping[str, Any], *, what: str, **fixed: Any
) -> T:
    """Calls ``function(**fixed, **options)`` after checking the names of the options.

    Args:
      function: its options are its named parameters but those in ``fixed``; it must
        not take ``**kwargs``.
      options: by name, as the user gave them.
      what: describes the function in the error message, such as ``"data set 'npz'"``.
      **fixed: arguments that come from the program, not from the user.

    Raises:
      UserError: if an option is unknown, or one without default is missing.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in fixed
    }
    for name in options:
        if name not in parameters:
            wanted = _one_of(name, parameters) if parameters else "no option at all"
            raise UserError(f"{what} has no option {name!r}, expected {wanted}.")
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in options
    ]
    if missing:
        given = ", ".join(options) or "none"
        raise UserError(
            f"{what} needs {' and '.join(missing)}; the options given were: {given}."
        )
    return function(**fixed, **options)


def _one_of(got: Any, names: Iterable[Any]) -> str:
    names = [str(name) for name in names]
    close = difflib.get_close_matches(str(got), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"one of {', '.join(names)}{hint}"
