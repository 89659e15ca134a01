"""Imports optional libraries, or says how to install them."""

import importlib
from types import ModuleType

from jaxkd.core.errors import UserError


def need(name: str, extra: str) -> ModuleType:
    """Imports a module of an optional dependency.

    Args:
      name: of the module.
      extra: of this package, which installs it.

    Raises:
      UserError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name} is not installed. Install it with pip install -e '.[{extra}]'."
        ) from error
