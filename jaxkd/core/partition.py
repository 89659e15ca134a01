"""Splits a tree of parameters by the labels of ``Method.trainable``.

A part is the same tree with None in place of the leaves that belong to others: optax
and Orbax see no leaf there, so that frozen parameters have no gradient, no state of an
optimiser and no weight decay, and the paths of the others stay as they are.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxkd.core.errors import UserError
from jaxkd.core.types import FROZEN, Params

Labels = Callable[[Params], Any]


def leaf_labels(trainable: Labels | None, params: Params) -> list[str] | None:
    """Returns one label per leaf of ``params``; None where all are trained alike.

    Raises:
      UserError: if the labels are not a tree of strings that fits ``params``.
    """
    if trainable is None:
        return None
    try:
        spread = jax.tree.map(
            lambda label, part: jax.tree.map(lambda _: label, part),
            trainable(params),
            params,
        )
    except ValueError as error:
        raise UserError(
            f"The labels of Method.trainable do not fit the parameters: {error}"
        ) from error
    labels = jax.tree.leaves(spread)
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong:
        raise UserError(
            f"Method.trainable returned {wrong[0]!r}, expected a tree of strings such "
            "as jaxkd.core.types.FROZEN."
        )
    return labels


def part(tree: Any, labels: list[str] | None, label: str | None) -> Any:
    """Returns ``tree`` with None for the leaves of other labels.

    Args:
      tree: like the parameters.
      labels: of its leaves; None keeps the tree whole.
      label: to keep; None keeps all that are not frozen.
    """
    if labels is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    kept = [
        leaf if own == label or (label is None and own != FROZEN) else None
        for leaf, own in zip(leaves, labels, strict=True)
    ]
    return jax.tree.unflatten(structure, kept)


def join(tree: Any, changed: Any) -> Any:
    """Returns ``tree`` with the leaves of a part in their places."""
    return jax.tree.map(
        lambda old, new: old if new is None else new,
        tree,
        changed,
        is_leaf=lambda x: x is None,
    )
