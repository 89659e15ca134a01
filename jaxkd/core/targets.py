"""Targets: what students need of frozen networks, evaluated once a batch for all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.frozen import any_per_seed, of_seed
from jaxkd.core.study import Group
from jaxkd.core.types import Batch, Targets


class Target(NamedTuple):
    """A function of the frozen networks, and the step until which it is needed."""

    function: Callable[[Any, Batch, jax.Array], Any]
    until: int


def collect_targets(groups: Sequence[Group]) -> dict[str, Target]:
    """Merges the targets of all students, so that each is evaluated once a batch.

    Raises:
      UserError: if two students mean different functions by one name.
    """
    merged: dict[str, Target] = {}
    for group in groups:
        for student in group.students:
            for name, function in student.method.targets.items():
                known = merged.get(name, Target(function, 0))
                if known.function is not function:
                    raise UserError(
                        f"Student {student.name!r} computes {name!r} from the needed "
                        "runs with other options than a student before it, expected "
                        "one set of options in a study. Give both the same, or train "
                        "them in studies of their own from one needed run "
                        "(config.needs.NAME.init_from)."
                    )
                merged[name] = Target(function, max(known.until, student.steps))
    return merged


def evaluate_all(
    targets: Mapping[str, Target],
    known: Targets,
    frozen: Any,
    data: Batch,
    keys: jax.Array,
    step: jax.Array,
    last: int,
) -> Targets:
    """Evaluates all targets on a batch.

    Args:
      targets: of ``collect_targets``.
      known: those that came with the inputs.
      frozen: variables of the needed runs' networks.
      data: ``[draws, batch, ...]``.
      keys: ``[draws]``.
      step: optimiser steps done.
      last: step at which the study ends; until a target is no longer needed it is
        computed, and zeros after that.
    """

    def one(target: Target):
        def compute():
            return evaluate_target(target.function, frozen, data, keys)

        if target.until >= last:
            return compute()
        return jax.lax.cond(step < target.until, compute, lambda: zeros_of(compute))

    return {
        name: known[name] if name in known else one(target)
        for name, target in targets.items()
    }


def evaluate_target(function: Callable, frozen: Any, data: Batch, keys: jax.Array):
    """Evaluates a target on ``[draws, batch]``, rounded alike in every program.

    Nothing around it is fused with it.
    """
    frozen, *by_draw = jax.lax.optimization_barrier((frozen, data, keys))
    if any_per_seed(frozen):
        # In turn, because side by side their convolutions would be grouped ones.
        result = jax.lax.map(
            lambda one: function(of_seed(frozen, one[0]), *one[1:]),
            (jnp.arange(len(keys)), *by_draw),
        )
    else:
        result = jax.vmap(function, in_axes=(None, 0, 0))(frozen, *by_draw)
    return jax.lax.optimization_barrier(result)


def zeros_of(compute: Callable[[], Any]) -> Any:
    """Returns zeros in the shapes of what ``compute`` would return."""
    shapes = jax.eval_shape(compute)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
