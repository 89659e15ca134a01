"""Finds a module or a function by the name in a config, and calls it with options.

There is no registry: a data set or a method is a module of a package, its options are
the arguments of one function, and both are read from the code that exists. A name with
a colon is somebody's own code: ``"package.module:function"`` on the import path, or
``"file.py:function"`` in a folder given to ``add_folder``.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from jaxkd.core import options
from jaxkd.core.errors import UserError

T = TypeVar("T")

# Folders in which "file.py:function" is searched, after the working directory.
_folders: list[Path] = []


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


def is_own_code(name: Any) -> bool:
    """Tells whether a name means somebody's own code rather than the library's."""
    return isinstance(name, str) and ":" in name


def add_folder(folder: str | Path) -> None:
    """Makes the code in a folder importable, as Python does with a script's folder.

    Args:
      folder: that holds ``file.py`` or ``package/`` of own code; a relative one is of
        the present working directory. Files of the import path go first.
    """
    path = Path(folder).absolute()
    if path not in _folders:
        _folders.append(path)
    if str(path) not in sys.path:
        sys.path.append(str(path))


def own_code(name: str, *, what: str) -> Callable[..., Any]:
    """Imports ``"package.module:function"`` or ``"file.py:function"``.

    Args:
      name: module and function, or class, joined by a colon.
      what: describes the name in error messages, such as ``"config.method"``.

    Raises:
      UserError: if there is no such file, module or function. Errors of the code
        itself are passed on.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute.isidentifier():
        raise UserError(
            f"{what} is {name!r}, expected 'package.module:function' or "
            "'file.py:function'."
        )
    found = own_module(name, what=what)
    function = getattr(found, attribute, None)
    if not callable(function):
        functions = [
            key
            for key, value in vars(found).items()
            if callable(value) and key[0] != "_" and _is_of(value, found)
        ]
        expected = _one_of(attribute, functions) if functions else "a function in it"
        raise UserError(
            f"{what} is {name!r}, but {module_name} has no function {attribute!r}, "
            f"expected {expected}."
        )
    return function


def own_module(name: str, *, what: str) -> ModuleType:
    """Imports the module of ``"package.module:function"`` or ``"file.py:function"``."""
    module_name = name.partition(":")[0]
    if module_name.endswith(".py"):
        return _import_file(_find_file(module_name, name, what))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that is missed by the user's own code is another matter.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        places = ", ".join(map(str, _folders)) or "none"
        raise UserError(
            f"{what} is {name!r}, but there is no module {error.name!r} on the import "
            f"path (folders of own code: {places}). Install its package, set "
            "PYTHONPATH, or lay it beside the configuration file."
        ) from error


def short_name(name: str) -> str:
    """Names own code for tables and paths: its function, or its file if that is told.

    ``"project.losses:sharp"`` is ``"sharp"``; ``"project/sharp.py:make"``, whose
    function is called as all of its kind, is ``"sharp"``, too. Names of the library
    are returned as they are.
    """
    if not is_own_code(name):
        return name
    module_name, _, attribute = name.partition(":")
    if attribute not in ("make", "load", "build"):
        return attribute
    return (
        Path(module_name).stem
        if module_name.endswith(".py")
        else (module_name.rpartition(".")[2])
    )


def _find_file(file: str, name: str, what: str) -> Path:
    path = Path(file).expanduser()
    options = [folder / path for folder in (Path.cwd(), *_folders)]
    for option in options:
        if option.is_file():
            return option.resolve()
    searched = ", ".join(dict.fromkeys(str(option.parent) for option in options))
    raise UserError(
        f"{what} is {name!r}, but there is no file {file} in {searched}. Give its "
        "path, absolute or relative to the configuration file."
    )


def _import_file(path: Path) -> ModuleType:
    """Imports a file once, under a name that no other file of that name has."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # any file.py has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_of(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def choose(name: Any, choices: Mapping[Any, T], *, what: str) -> T:
    """Returns ``choices[name]``.

    Args:
      name: the choice made.
      choices: all there are.
      what: describes the choice in the error message, such as ``"view"``.

    Raises:
      UserError: if there is no such choice; the message lists those that there are.
    """
    try:
        return choices[name]
    except (KeyError, TypeError):  # a list or a dictionary is no key at all
        message = f"{what} is {name!r}, expected {_one_of(name, choices)}."
    raise UserError(message)


def variant(argument: str, variants: Mapping[str, Callable[..., T]], *, what: str) -> T:
    """Makes what ``name`` or ``name,value,value`` means of several variants.

    Args:
      argument: of a configuration, after its colon.
      variants: name -> function, whose arguments are the values, as text.
      what: describes the variants in error messages, such as ``"configs/rld.py"``.

    Raises:
      UserError: if there is no such variant, or it takes fewer values or more.
    """
    name, *values = argument.split(",")
    make = choose(name, variants, what=f"{what} variant")
    signature = inspect.signature(make)
    try:
        signature.bind(*values)
    except TypeError as error:
        expected = ",".join([name, *(one.upper() for one in signature.parameters)])
        raise UserError(
            f"{what} variant is {argument!r}, expected {expected!r}."
        ) from error
    return make(*values)


def call(
    function: Callable[..., T], given: Mapping[str, Any], *, what: str, **fixed: Any
) -> T:
    """Calls ``function(**fixed, **given)`` after checking the options.

    Args:
      function: its options are its named parameters but those in ``fixed``; it must
        not take ``**kwargs``.
      given: options by name, as the user gave them.
      what: describes the function in the error message, such as ``"data set 'npz'"``.
      **fixed: arguments that come from the program, not from the user.

    Raises:
      UserError: as ``check``.
    """
    check(function, given, what=what, fixed=fixed)
    return function(**fixed, **given)


def check(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    what: str,
    fixed: Iterable[str] = (),
) -> None:
    """Checks names, types and ranges of a function's options; see ``core.options``.

    Args:
      function: as in ``call``.
      given: options by name.
      what: as in ``call``.
      fixed: arguments that come from the program, not from the user.

    Raises:
      UserError: if an option is unknown, of another type or out of its range, or one
        without default is missing.
    """
    known = options.of_function(function, fixed)
    for name in given:
        if name not in known:
            expected = _one_of(name, known) if known else "no option at all"
            raise UserError(f"{what} has no option {name!r}, expected {expected}.")
    missing = [
        name
        for name, option in known.items()
        if option.default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        shown = ", ".join(given) or "none"
        raise UserError(
            f"{what} needs {' and '.join(missing)}; the options given were: {shown}."
        )
    for name, value in given.items():
        options.check(value, known[name], f"{what}: {name}")


def _one_of(got: Any, names: Iterable[Any]) -> str:
    names = [str(name) or "''" for name in names]
    close = closest(got, names)
    hint = f" (did you mean {close!r}?)" if close else ""
    return f"one of {', '.join(names)}{hint}"


def closest(got: Any, names: Iterable[str]) -> str | None:
    """Returns the name most like ``got``, capitals or not; None if none is alike."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(got).lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None
