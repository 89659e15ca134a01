"""Students that stay as they begin: needed runs' networks, measured as rows of a study.

A teacher on small images enlarged again, or cut to one step, is a baseline. It has to
be measured on the same examples, by the same evaluation, as students that are trained.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.core.types import (
    FROZEN,
    MAIN,
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
)

NAME = "idle"


def untrained(method: Method) -> Method:
    """Returns a method whose network stays as it begins.

    Beside the network stands one number, which nothing depends on: a run has to train
    something. The loss is measured in evaluation mode, and batch statistics stay.

    Args:
      method: of one loss and one optimiser, whose loss looks at what ``predict``
        returns.
    """
    return method._replace(
        init=_with_number(method.init),
        forward=_evaluation_mode(method.predict),
        loss=_without_gradient(method.loss),
        trainable=_labels,
    )


def _labels(params: Params) -> Any:
    return {**dict.fromkeys(params, FROZEN), NAME: MAIN}


def _with_number(init: Callable) -> Callable:
    def both(key: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = init(key)
        return {**params, NAME: jnp.zeros(())}, model_state

    return both


def _evaluation_mode(predict: Callable) -> Callable:
    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        del key
        return predict(params, model_state, batch), model_state

    return forward


def _without_gradient(loss: Callable[[LossInputs], Loss]) -> Callable:
    def measured(inputs: LossInputs) -> Loss:
        found = loss(inputs)
        idle = 0.0 * inputs.params[NAME]
        return found._replace(value=found.value + idle, model_state=inputs.model_state)

    return measured
