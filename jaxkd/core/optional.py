"""Imports of optional libraries, with the command that installs a missing one."""

import importlib
from types import ModuleType

from jaxkd.core.errors import UserError


def load(name: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports an optional library.

    Args:
      name: of the module, such as ``"pydicom"``.
      extra: of ``pyproject.toml`` that installs it, such as ``"medical"``.
      purpose: what needs it, to begin the message with, such as ``"DICOM files"``.

    Raises:
      UserError: if it, or a library that it needs itself, is not installed.

    >>> load("math", extra="medical", purpose="Nothing").sqrt(4.0)
    2.0
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = error.name or name
        via = (
            ""
            if absent.partition(".")[0] == name.partition(".")[0]
            else f" (by {name})"
        )
        raise UserError(
            f"{purpose}: {absent} is needed{via} but not installed. Install it "
            f"with: {install(extra)}"
        ) from error


def install(extra: str) -> str:
    """Returns the command that installs an extra, from the root of a clone.

    >>> install("medical")
    "pip install -e '.[medical]'"
    """
    return f"pip install -e '.[{extra}]'"
