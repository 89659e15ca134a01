"""What a training step sees: examples out of a table, their views, their random keys.

Views are new at every step, with keys of the run's seed and the step, unless the inputs
say how often each example was seen before (``visit``): then keys are of the seed, the
example and its visit, so that what frozen networks say of a view can be computed once,
in any order, and looked up when it comes round again (``jaxkd.targets``).
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxkd.core.types import Batch, Targets

# Fields of the inputs that steer a step and are not shown to methods.
_VISIT, _TARGETS = "visit", "targets"
# What the examples do not hold and views do not see.
_NOT_SEEN = ("index", _TARGETS)


class Views(Protocol):
    """The part of the step's settings that tells how views are made."""

    @property
    def view(self) -> Callable[[jax.Array, Batch], Batch]:
        """The augmentation, ``(key, batch) -> batch``."""

    @property
    def draw_seeds(self) -> tuple[int, ...]:
        """The seed of each draw of a batch."""


def look_up(table: Batch, data: Batch, draws: int) -> Batch:
    """Fetches the examples ``[draws, batch, ...]``, and numbers them by draw."""
    if not table:
        return data
    rows = {name: array[data["index"]] for name, array in table.items()}
    examples = len(next(iter(table.values()))) // draws
    return data | rows | {"index": data["index"] % examples}


def whole(table: Batch, draws: int) -> Batch:
    """Returns the labels of the whole training set of each draw, if it has any."""
    if "label" not in table:
        return {}
    labels = table["label"]
    return {"train_labels": labels.reshape(draws, -1, *labels.shape[1:])}


def step_keys(seeds: tuple[int, ...], step: jax.Array | int) -> jax.Array:
    """Returns the key of each draw at a step."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(_roots(seeds, 1), step)


def _roots(seeds: tuple[int, ...], purpose: int) -> jax.Array:
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    return _fold(keys, purpose)


def _fold(keys: jax.Array, number: Any) -> jax.Array:
    """Folds numbers, or one for all, into an array of keys."""
    numbers = jnp.broadcast_to(number, keys.shape)
    fold = jax.random.fold_in
    for _ in range(keys.ndim):
        fold = jax.vmap(fold)
    return fold(keys, numbers)


def view(how: Views, keys: jax.Array, data: Batch) -> Batch:
    """Adds the views of a batch.

    Args:
      how: the augmentation.
      keys: one for each draw, of views that are new at every step.
      data: the examples, ``[draws, batch, ...]`` each field; with ``visit`` ``[draws,
        batch]`` views depend on the seed, ``index`` and ``visit`` instead.

    Returns:
      The batch as seen, without ``visit``.
    """
    data = dict(data)
    visit = data.pop(_VISIT, None)
    if visit is None:
        see: Callable = jax.vmap
    else:
        roots = jnp.broadcast_to(_roots(how.draw_seeds, 3)[:, None], visit.shape)
        keys = _fold(_fold(roots, visit), data["index"])
        see = _each_alone
    examples = {name: x for name, x in data.items() if name not in _NOT_SEEN}
    return data | see(how.view)(keys, examples)


def _each_alone(function: Callable) -> Callable:
    """Applies a view to every example by itself, with a key of its own."""

    def one(key: jax.Array, example: Batch) -> Batch:
        batch = function(key, jax.tree.map(lambda x: x[None], example))
        return jax.tree.map(lambda x: x[0], batch)

    return jax.vmap(jax.vmap(one))


def split_targets(data: Batch) -> tuple[Batch, Targets]:
    """Takes the targets that came with the inputs out of a batch."""
    data = dict(data)
    return data, data.pop(_TARGETS, {})
