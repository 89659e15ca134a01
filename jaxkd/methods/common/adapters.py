"""Adapters: variables that a method trains beside the student, dropped at export.

A module with variables of its own (a regressor, a memory bank) by ``with_variables``; a
linear projection of the student's features to the teacher's width by
``with_projection``. Functions are cached, so that students which differ in their
weights alone hold the same ones and share one compiled body.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core.types import FrozenNetwork, LossInputs, Method, ModelState, Params, Spec
from jaxkd.losses.numerics import at_least_float32, einsum

# Where the projections stand; the name is that of the checkpoints of version 0.1.
PROJECTION = "maps"


def apply(adapter: nn.Module, name: str, inputs: LossInputs) -> tuple[Any, ModelState]:
    """Applies an adapter to the outputs, the targets and the batch.

    Args:
      adapter: ``(outputs, targets, batch) -> value``. Random numbers come from the
        stream ``"sample"``.
      name: of its variables.
      inputs: of the loss.

    Returns:
      The value, and the updated non-trainable state.
    """
    variables = {"params": inputs.params[name], **inputs.model_state[name]}
    value, updated = adapter.apply(
        variables,
        inputs.outputs,
        inputs.targets,
        inputs.batch,
        mutable=list(inputs.model_state[name]),
        rngs={"sample": inputs.key},
    )
    return value, {**inputs.model_state, name: updated}


def with_variables(method: Method, spec: Spec, name: str, adapter: nn.Module) -> Method:
    """Adds an adapter's variables, under ``name``, to those that a method begins with.

    Args:
      method: whose loss applies the adapter; its forward and targets tell the shapes.
      spec: the run.
      name: of the variables.
      adapter: see ``with_adapter``.
    """
    init = _init_with_adapter(
        name,
        adapter,
        method.init,
        method.forward,
        tuple(method.targets.items()),
        tuple(spec.frozen.items()),
        tuple(spec.batch_shapes(2).items()),
    )
    return method._replace(init=init)


@functools.cache
def _init_with_adapter(
    name: str,
    adapter: nn.Module,
    init: Callable,
    forward: Callable,
    targets: tuple[tuple[str, Callable], ...],
    frozen: tuple[tuple[str, FrozenNetwork], ...],
    batch: tuple[tuple[str, Any], ...],
) -> Callable[[jax.Array], tuple[Params, ModelState]]:
    """Adds an adapter's variables to those of the student; cached, as its others."""
    key = jax.random.key(0)
    shapes = dict(batch)

    networks = {
        each: jax.eval_shape(one.network.init, key, shapes[one.input_key])
        for each, one in frozen
    }

    def see(params, model_state):
        """Returns zeros in the shape of all that the adapter will be shown."""
        outputs = jax.eval_shape(forward, params, model_state, shapes, key)[0]
        taught = {n: jax.eval_shape(f, networks, shapes, key) for n, f in targets}
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (outputs, taught, shapes)
        )

    def init_both(key: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = init(key)
        own, sample = jax.random.split(jax.random.fold_in(key, 1))
        added = dict(
            adapter.init({"params": own, "sample": sample}, *see(params, model_state))
        )
        return (
            {**params, name: added.pop("params", {})},
            {**model_state, name: added},
        )

    return init_both


def with_projection(
    method: Method,
    spec: Spec,
    frozen: Iterable[str],
    layer: str = "pooled",
    frozen_layer: str = "pooled",
) -> Method:
    """Adds linear maps from the student's features to the frozen networks' widths.

    They are trained beside the student and dropped when it is exported; ``project``
    applies them. Networks of equal width share one, and those as wide as the
    student need none.

    Args:
      method: of the student.
      spec: of the run.
      frozen: names of the networks.
      layer: name of the student's features, of which the last axis is mapped.
      frozen_layer: name of the networks' features.
    """
    networks = tuple(spec.frozen[name] for name in sorted(frozen))
    shapes = tuple(spec.batch_shapes(2).items())
    layers = layer, frozen_layer
    init = _init_with_projection(method.init, method.forward, networks, shapes, layers)
    return method._replace(init=init)


@functools.cache
def _init_with_projection(
    init, forward, networks: tuple[FrozenNetwork, ...], shapes, layers
):
    (layer, frozen_layer), batch, key = layers, dict(shapes), jax.random.key(0)

    def width(one: FrozenNetwork) -> int:
        def run(key, images):
            return one.network.init_with_output(key, images)[0][1]

        return jax.eval_shape(run, key, batch[one.input_key])[frozen_layer].shape[-1]

    widths = sorted({width(one) for one in networks})

    def init_both(key: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = init(key)
        outputs = jax.eval_shape(forward, params, model_state, batch, key)[0]
        inputs = outputs["features"][layer].shape[-1]
        keys = jax.random.split(jax.random.fold_in(key, 1), max(len(widths), 1))
        projections = {
            str(size): jax.random.normal(one, (inputs, size)) * inputs**-0.5
            for one, size in zip(keys, widths, strict=False)
            if size != inputs
        }
        return (
            {**params, PROJECTION: projections} if projections else params
        ), model_state

    return init_both


def project(params: Params, features: jax.Array, width: int) -> jax.Array:
    """Maps features to another width, or returns them where that is their own."""
    if features.shape[-1] == width:
        return features
    return einsum(
        "...f,fg->...g", at_least_float32(features), params[PROJECTION][str(width)]
    )
