"""Warm starts: students that begin with the variables of a needed run."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxkd.core.errors import UserError
from jaxkd.core.types import ModelState, Params

WarmStart = Callable[[Params, ModelState, Any], tuple[Params, ModelState]]


# Cached, so that students that start alike hold one function.
@functools.cache
def from_needed_run(name: str, part: str = "") -> WarmStart:
    """Returns a ``warm_start``: the student begins as the needed run's network.

    Args:
      name: of the needed run.
      part: name of a submodule, such as ``"hrnet"``, of which alone the variables are
        taken; empty takes all.

    Raises:
      UserError: when called, if there is no such run or part, or its variables do not
        fit.
    """

    def start(
        params: Params, model_state: ModelState, frozen: Mapping[str, Any]
    ) -> tuple[Params, ModelState]:
        check_named(name, frozen)
        own = {"params": params["student"], **model_state["student"]}
        taken = _part(frozen[name], part, f"run {name!r}")
        replaced = _part(own, part, "student")
        check_fit(name, taken, replaced)
        merged = {
            collection: {**tree, part: taken[collection][part]}
            if part and part in tree
            else taken.get(collection, tree)
            for collection, tree in own.items()
        }
        return (
            {**params, "student": merged.pop("params")},
            {**model_state, "student": merged},
        )

    return start


@functools.cache
def trunk_of_needed_run(name: str, head: str) -> WarmStart:
    """Returns a ``warm_start``: the student begins as the needed run's network.

    All but the head is taken. The student may have modules that the network lacks,
    which start as they are initialised.

    Args:
      name: of the needed run.
      head: name of the submodule whose variables are not taken.

    Raises:
      UserError: when called, if there is no such run, or the student lacks one of its
        variables or has another size there.
    """

    def start(
        params: Params, model_state: ModelState, frozen: Mapping[str, Any]
    ) -> tuple[Params, ModelState]:
        check_named(name, frozen)
        taken = {
            path: leaf
            for path, leaf in traverse_util.flatten_dict(dict(frozen[name])).items()
            if path[1] != head
        }
        own = traverse_util.flatten_dict(
            {"params": params["student"], **model_state["student"]}
        )
        there = {path: leaf for path, leaf in own.items() if path in taken}
        check_fit(name, *map(traverse_util.unflatten_dict, (taken, there)))
        merged = traverse_util.unflatten_dict(own | taken)
        return (
            {**params, "student": merged.pop("params")},
            {**model_state, "student": merged},
        )

    return start


def check_named(name: str, frozen: Mapping[str, Any]) -> None:
    """Raises a ``UserError`` if there is no needed run of a name."""
    if name not in frozen:
        raise UserError(
            f"start_from is {name!r}, but config.needs names "
            f"{', '.join(frozen) or 'no run'}. Add that run to config.needs."
        )


def _part(variables: Mapping[str, Any], part: str, whose: str) -> dict[str, Any]:
    """Returns the variables of a submodule, collection by collection."""
    if not part:
        return dict(variables)
    found = {c: {part: tree[part]} for c, tree in variables.items() if part in tree}
    if not found:
        names = ", ".join(variables["params"])
        raise UserError(f"The {whose} has no submodule {part!r}, only {names}.")
    return found


def check_fit(
    name: str,
    theirs: Any,
    own: Any,
    what: str = "student",
    advice: str = "Expected a network of the same layers and widths; only strides and "
    "the size of the images may differ.",
) -> None:
    """Compares what is to be taken from a needed run with what it replaces.

    Args:
      name: of the needed run.
      theirs: its variables.
      own: those that they replace.
      what: cannot start from that run, for the message.
      advice: the message's end.

    Raises:
      UserError: if a path or a shape differs.
    """
    got, expected = _shapes(theirs), _shapes(own)
    wrong = sorted(p for p in got | expected if got.get(p) != expected.get(p))
    if wrong:
        raise UserError(
            f"The {what} cannot start from {name!r}: {len(wrong)} of its variables "
            f"do not fit, such as {wrong[0]}, {got.get(wrong[0])} there and "
            f"{expected.get(wrong[0])} here. {advice}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
