"""MoCo: a view finds its key among those of a queue (arXiv:1911.05722)."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.losses.numerics import unit
from jaxkd.methods.common import self_supervised
from jaxkd.models.projection import Head, Layer


def make(
    spec: Spec,
    *,
    temperature: float = 0.1,
    momentum: float = 0.99,
    queue: int = 4096,
    queue_wrap: Literal["ring", "truncate"] = "ring",
    hidden: int = 512,
    output: int = 128,
    symmetric: bool = False,
) -> Method:
    """Makes an encoder whose keys come from its moving average and a queue.

    Keys and queries go through batch norm of the whole batch, on all devices; the
    shuffled and split batch norms of MoCo's code have no counterpart.

    Args:
      spec: the run.
      temperature: of the softmax.
      momentum: of the moving average, constant.
      queue: keys that are remembered, at most the number of training images.
      queue_wrap: see ``losses.queue_update``.
      hidden: width of the projector.
      output: width of the projections.
      symmetric: whether each view is a query in turn. Both terms read the queue from
        before this batch.

    Raises:
      UserError: if the queue is longer than the training set.
    """
    self_supervised.exactly_two(spec, "moco")
    if spec.num_examples is not None and queue > spec.num_examples:
        raise UserError(
            f"config.loss.queue is {queue}, expected at most the {spec.num_examples} "
            "training images: otherwise an image's own old keys are its negatives."
        )
    projector = Head((Layer(hidden, relu=True), Layer(output)))

    def memory(key):
        return {
            "queue": losses.queue_init(key, queue, output),
            "position": jnp.zeros((), jnp.int32),
        }

    def loss(inputs: LossInputs) -> Loss:
        z, keys = inputs.outputs["z"], inputs.outputs["target"]
        remembered = inputs.model_state["memory"]
        rows = remembered["queue"]
        value = jnp.mean(losses.moco(z[0], keys[1], rows, temperature=temperature))
        new = keys[1]
        if symmetric:
            other = losses.moco(z[1], keys[0], rows, temperature=temperature)
            value, new = 0.5 * (value + jnp.mean(other)), keys.reshape(-1, output)
        changed, position = losses.queue_update(
            rows, remembered["position"], new, wrap=queue_wrap
        )
        state = {
            **inputs.model_state,
            "memory": {"queue": changed, "position": position},
        }
        return Loss(value, state, {"moco": value, "top1": _top1(z[0], keys[1], rows)})

    return self_supervised.joint_embedding(
        spec,
        "moco",
        loss,
        projector=projector,
        momentum=lambda step: jnp.asarray(momentum),
        memory=memory,
    )


def _top1(query: jax.Array, key: jax.Array, queue: jax.Array) -> jax.Array:
    """Returns the share of queries nearer to their key than to the whole queue."""
    q, k = unit(query), unit(key)
    return jnp.mean(jnp.sum(q * k, axis=-1) > jnp.max(q @ queue.T, axis=-1))
