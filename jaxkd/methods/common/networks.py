"""A student's network as the functions of a method, and frozen ones as its targets."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Batch, Ensemble, FrozenNetwork, ModelState, Params


class NetworkFunctions(NamedTuple):
    """What a method needs of its network, see ``jaxkd.core.types.Method``.

    The functions that make one are cached, so that students which differ in their loss
    alone hold the same functions and share one compiled body.
    """

    init: Callable[[jax.Array], tuple[Params, ModelState]]
    forward: Callable
    predict: Callable


def init_student(
    network: nn.Module, image_shape: tuple[int, ...]
) -> Callable[[jax.Array], tuple[Params, ModelState]]:
    """Returns ``key -> (params, model_state)`` of a network that stands alone."""

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        variables = dict(network.init(key, jnp.zeros((1, *image_shape))))
        params = variables.pop("params")
        return {"student": params}, {"student": variables}

    return init


def frozen_outputs(
    frozen: FrozenNetwork, name: str = "teacher", output: str = "logits"
) -> Callable[..., dict[str, Any]]:
    """Returns the target function of a frozen network: its output and features.

    Args:
      frozen: the network, and what it reads.
      name: of the needed run that trained it.
      output: what its output is called: ``"logits"``, or ``"image"`` of a network that
        enlarges.
    """
    return _frozen_outputs(frozen, name, output)


# Cached, so that all students of a run share one evaluation of it.
@functools.cache
def _frozen_outputs(frozen: FrozenNetwork, name: str, output: str):
    def targets(variables: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        del key
        value, features = frozen.apply(variables[name], batch[frozen.input_key])
        return jax.lax.stop_gradient({output: value, "features": features})

    return targets


@functools.cache
def ensemble_outputs(
    ensemble: Ensemble, networks: tuple[FrozenNetwork, ...]
) -> Callable[..., dict[str, Any]]:
    """Returns the target function of several teachers: the logits of all as one.

    Each reads its own field of the batch. There are no features: those of different
    networks cannot be averaged.

    Args:
      ensemble: names, weights, and how logits are combined.
      networks: in the order of the names.
    """
    names, weights = zip(*ensemble.weights, strict=True)
    each = [frozen_outputs(*pair) for pair in zip(networks, names, strict=True)]

    def targets(variables: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        logits = [one(variables, batch, key)["logits"] for one in each]
        combined = losses.combine_logits(logits, weights, combine=ensemble.combine)
        return {"logits": combined}

    return targets
