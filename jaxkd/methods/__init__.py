"""Training systems, one file each. ``config.method = "rld"`` means ``methods/rld.py``.

A file that defines ``make(spec, **options) -> Method`` is a method; its keyword
arguments are the keys of ``config.loss``. Adding one needs no edit elsewhere.
A name such as ``"sharp.py:make"`` or ``"project.losses:sharp"`` is own code of the same
form, outside the library. ``"rld+crd"`` adds up methods, each with its own options:
``{"crd": {"weight": 0.8}}``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(name: str, spec: Spec, options: Mapping[str, Any]) -> Method:
    """Makes the method called ``name`` for a run.

    In a sum of methods, cross entropy with the labels is the first one's: where the
    others take a ``ce_weight``, it is 0 unless they are given one.

    Raises:
      UserError: if there is no such method, or it has no such option.
    """
    if "+" in name:
        return _make_sum(name, spec, options)
    return _make_one(name, spec, options)


def _make_one(name: str, spec: Spec, options: Mapping[str, Any]) -> Method:
    return lookup.call(find(name), options, what=f"method {name!r}", spec=spec)


def find(name: str) -> Callable[..., Method]:
    """Returns the ``make`` of a method that is no sum.

    Raises:
      UserError: if there is no such method.
    """
    if lookup.is_own_code(name):
        return lookup.own_code(name, what="config.method")
    return lookup.module(__name__, name, "make").make


def _make_sum(name: str, spec: Spec, options: Mapping[str, Any]) -> Method:
    names = [part.strip() for part in name.split("+")]
    unknown = [key for key in options if key not in names]
    if unknown or len(set(names)) < len(names):
        raise UserError(
            f"The options of method {name!r} have the keys {', '.join(options)}. "
            f"Expected each part once, and its options under its name: "
            f"{', '.join(dict.fromkeys(names))}."
        )
    parts: dict[str, Method] = {}
    for part in names:
        own = dict(options.get(part, {}))
        if parts and "ce_weight" in inspect.signature(find(part)).parameters:
            own = {"ce_weight": 0.0, **own}
        parts[part] = _make_one(part, spec, own)
    return distillation.combine(parts)
