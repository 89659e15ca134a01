"""Training systems, one file each. ``config.method = "rld"`` means ``methods/rld.py``.

A file that defines ``make(spec, **options) -> Method`` is a method; its keyword
arguments are the keys of ``config.loss``. Adding one needs no edit elsewhere.
"""

from collections.abc import Mapping
from typing import Any

from jaxkd.core import lookup
from jaxkd.core.types import Method, Spec


def make(name: str, spec: Spec, options: Mapping[str, Any]) -> Method:
    """Makes the method called ``name`` for a run.

    Raises:
      UserError: if there is no such method, or it has no such option.
    """
    module = lookup.module(__name__, name, "make")
    return lookup.call(module.make, options, what=f"method {name!r}", spec=spec)
