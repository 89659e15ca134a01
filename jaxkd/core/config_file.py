"""Configuration files: where they lie, and what their ``get_config`` returns.

``rld:digits`` is the shipped ``configs/rld.py`` with the argument ``digits``, in a
clone and in an installed package alike; ``path/to/mine.py:arg`` is somebody's own.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import lookup
from jaxkd.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent
# Within an installed package, and beside the package in a clone.
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def shipped() -> dict[str, Path]:
    """Returns the configurations that come with the library, by name."""
    folder = next((path for path in _SHIPPED if path.is_dir()), None)
    files = sorted(folder.glob("*.py")) if folder else []
    return {path.stem: path for path in files if path.stem != "__init__"}


def locate(source: str | Path) -> str:
    """Returns ``path.py`` or ``path.py:arg`` of a configuration.

    Args:
      source: the same, or the name of a shipped one in place of its path:
        ``rld``, ``rld:digits``.

    Raises:
      UserError: if there is no such file; lists the shipped ones.
    """
    path, colon, argument = _split(str(source))
    if path.endswith(".py") and Path(path).expanduser().is_file():
        return f"{Path(path).expanduser()}{colon}{argument}"
    known = shipped()
    if path in known:
        return f"{known[path]}{colon}{argument}"
    close = lookup.closest(Path(path).stem, known)
    hint = f" Did you mean {close + colon + argument!r}?" if close else ""
    raise UserError(
        f"--config is {str(source)!r}, but there is no such file.{hint} Expected a "
        f"file such as mine.py, or one of the shipped {', '.join(known) or '(none)'}."
    )


def _split(source: str) -> tuple[str, str, str]:
    """Splits at the first colon after ``.py``, or else at the first one."""
    found = re.match(r"(.*?\.py)(:?)(.*)", source, re.DOTALL)
    if found:
        return found[1], found[2], found[3]
    return source.partition(":")


def load(source: str | Path) -> ConfigDict:
    """Loads a configuration as the command line does, named after its file.

    Args:
      source: see ``locate``.

    Raises:
      UserError: if there is no such file, it defines no ``get_config``, or that
        refuses the argument or returns something else.
    """
    located = locate(source)
    path, _, argument = _split(located)
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None  # any file.py has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} defines no function get_config, expected one.")
    try:
        config = module.get_config(argument) if argument else module.get_config()
    except ValueError as error:
        raise UserError(f"{located}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{path}: get_config() returned {type(config).__name__}, expected a "
            "ConfigDict. Start from jaxkd.core.config.default()."
        )
    prepare(config, located)
    return config


def prepare(config: ConfigDict, located: str) -> None:
    """Names a configuration after its file, and notes where own code is found.

    Args:
      config: as ``get_config`` returned it; changed in place.
      located: its file, see ``locate``.
    """
    if not config.name:
        config.name = stem(located)
    folder = Path(_split(located)[0]).absolute().parent
    _note_code(config, str(folder))
    lookup.add_folder(folder)


def stem(located: str) -> str:
    """Returns the name of a run: that of its file, with the argument."""
    name = Path(_split(located)[0]).stem
    argument = _split(located)[2]
    return re.sub(r"[^\w.-]+", "-", f"{name}-{argument}" if argument else name)


def _note_code(config: ConfigDict, folder: str) -> None:
    if "code" not in config:  # a pipeline, which has none
        return
    if not config.code and uses_own_code(config):
        config.code = folder
    for need in config.needs.values():
        _note_code(need, folder)


def uses_own_code(config: Any) -> bool:
    """Tells whether a training run, without its needs, names code of its own."""
    students = config.students.values()
    names = [config.method, *(student.get("method") for student in students)]
    parts = [config.model, config.data, config.view]
    parts += [student.get("model", {}) for student in students]
    names += [part.get("name") for part in parts]
    return any(lookup.is_own_code(name) for name in names)
