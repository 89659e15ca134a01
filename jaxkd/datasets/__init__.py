"""Data sets by name: each is a module with a ``load`` function that makes a Dataset."""

from collections.abc import Callable
from typing import Any

from jaxkd.core import lookup
from jaxkd.core.source import Dataset, check_layout


def load(name: str, /, **options: Any) -> Dataset:
    """Loads the data set ``jaxkd.datasets.<name>`` with the options of its ``load``.

    A name such as ``"shapes.py:load"`` is own code that returns a ``Dataset``.

    Raises:
      UserError: if there is no such data set, or it has no such option; the message
        lists those that there are.
    """
    dataset = lookup.call(find(name), options, what=f"data set {name!r}")
    if lookup.is_own_code(name):
        check_layout((0, *dataset.info.image_shape), f"The images of {name!r}")
    return dataset


def find(name: str) -> Callable[..., Dataset]:
    """Returns the ``load`` of a data set.

    Raises:
      UserError: if there is no such data set.
    """
    if lookup.is_own_code(name):
        return lookup.own_code(name, what="config.data.name")
    return lookup.module(__name__, name, "load").load
