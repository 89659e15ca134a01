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
    something. A step costs nothing: the network is applied in evaluation alone, and the
    training loss, which would move nothing, is not computed but recorded as 0.

    Args:
      method: of one loss and one optimiser.
    """
    return method._replace(
        targets={},
        init=_with_number(method.init),
        forward=_forward,
        loss=_loss,
        trainable=_labels,
    )


def _labels(params: Params) -> Any:
    return {**dict.fromkeys(params, FROZEN), NAME: MAIN}


def _with_number(init: Callable) -> Callable:
    def both(key: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = init(key)
        return {**params, NAME: jnp.zeros(())}, model_state

    return both


def _forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
    del params, batch, key
    return {}, model_state


def _loss(inputs: LossInputs) -> Loss:
    return Loss(0.0 * inputs.params[NAME], inputs.model_state, {})
