"""Auto-lambda: weights of several losses, moved for the sake of the first one.

Liu et al. (arXiv:2202.03091), as face forgery detectors use it (arXiv:2405.08487).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import (
    MAIN,
    Batch,
    Loss,
    LossInputs,
    Params,
    Update,
    UpdateInputs,
)
from jaxkd.methods.common.label_heads import Levels

TASK_WEIGHTS = "task_weights"  # among the parameters, and label of their optimiser


def trainable(params: Params) -> dict[str, str]:
    """Gives the weights of the losses an optimiser of their own; see ``Method``."""
    return {name: TASK_WEIGHTS if name == TASK_WEIGHTS else MAIN for name in params}


def update(
    forward: Callable,
    loss: Callable[[LossInputs], Loss],
    levels: Levels,
    fixed: jax.Array,
    negative: bool,
    official: bool,
) -> Callable[[UpdateInputs], Update]:
    """Returns the ``Method.update`` that first moves the weights, then the network.

    Half of the batch takes the virtual step, the other half tells what it did to the
    first loss, and the whole batch takes the step itself.

    Args:
      forward: ``Method.forward``; its outputs hold ``logits``.
      loss: ``Method.loss``, with the weights of ``TASK_WEIGHTS``.
      levels: the losses that are weighted.
      fixed: ``[levels]``, what the weights are multiplied by.
      negative: whether weights may turn negative.
      official: whether the gradient of the weights keeps the learning rate as a factor.
    """

    def hyper_loss(inputs: UpdateInputs, weights: Any, given: LossInputs) -> Loss:
        """A function of the weights with the gradient that Auto-lambda gives them."""
        size = len(given.batch["label"]) // 2
        rows = {k: v for k, v in given.batch.items() if k != "train_labels"}
        halves = [
            {name: values[part] for name, values in rows.items()}
            for part in (slice(size), slice(size, 2 * size))
        ]

        def values(student: Params, half: Batch) -> jax.Array:
            # The statistics of these passes are dropped: those of the step count.
            whole = {**inputs.params, "student": student}
            outputs, _ = forward(whole, given.model_state, half, given.key)
            return levels(outputs["logits"], half)

        found = losses.auto_lambda(
            lambda student: values(student, halves[0]),
            lambda student: values(student, halves[1])[0],
            inputs.params["student"],
            fixed * jax.lax.stop_gradient(weights),
            learning_rate=inputs.learning_rate[MAIN],
        )
        slope = fixed * (found.gradient if official else -found.alignment)
        value = found.primary + jax.lax.stop_gradient(slope) @ (
            weights - jax.lax.stop_gradient(weights)
        )
        return Loss(value, given.model_state, {"primary": found.primary})

    def step_loss(params: Params, given: LossInputs) -> Loss:
        outputs, state = forward(params, given.model_state, given.batch, given.key)
        given = given._replace(params=params, outputs=outputs, model_state=state)
        result = loss(given)
        return result._replace(metrics={"loss": result.value} | result.metrics)

    def step(inputs: UpdateInputs) -> Update:
        slope, hyper = inputs.gradients(
            functools.partial(hyper_loss, inputs),
            inputs.params[TASK_WEIGHTS],
            inputs.model_state,
            salt=1,
        )
        zeros = jax.tree.map(jnp.zeros_like, inputs.params)
        params, opt_state = inputs.apply(
            inputs.params,
            {**zeros, TASK_WEIGHTS: slope},
            inputs.opt_state,
            label=TASK_WEIGHTS,
        )
        if not negative:
            weights = jnp.maximum(params[TASK_WEIGHTS], 0)
            params = {**params, TASK_WEIGHTS: weights}
        gradients, result = inputs.gradients(
            step_loss, params, inputs.model_state, label=MAIN
        )
        params, opt_state = inputs.apply(params, gradients, opt_state, label=MAIN)
        found = dict(result.metrics)
        value = found.pop("loss")
        return Update(
            params, result.model_state, opt_state, value, found | hyper.metrics
        )

    return step
