"""NL-RAN: a classifier of CT volumes whose heat maps are measured (arXiv:2408.04300).

Trains with cross entropy. After training it compares the students with two classifiers
of plain intensities, their heat maps with known lesions, and both with what the bare
intensity of a voxel says; see ``jaxkd.evaluators.ct``.
"""

import functools
from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Items
from jaxkd.core.types import (
    EXPLAIN,
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Spec,
)
from jaxkd.methods.common import classification, warm_start
from jaxkd.methods.common.networks import init_student
from jaxkd.models.ct import heatmaps
from jaxkd.models.ct.nlran import NLRAN

PREDICTOR = "ct"


def make(
    spec: Spec,
    *,
    label_smoothing: float = 0.0,
    class_weights: Annotated[Sequence[float], Items(least=0, some=True)] = (),
    start_from: str = "",
) -> Method:
    """Makes a classifier of volumes.

    Args:
      spec: the run.
      label_smoothing: probability mass spread evenly over all classes.
      class_weights: of the classes' examples in the loss, such as the inverse of their
        frequencies; all the same if not given.
      start_from: name of a needed run whose network the student starts with, but for
        its head; parts that the network lacks start as they are initialised.

    Raises:
      UserError: if there are weights, but not one for each class.
    """
    if class_weights and len(class_weights) != spec.num_classes:
        raise UserError(
            f"class_weights has {len(class_weights)} numbers, expected "
            f"{spec.num_classes}, one per class."
        )
    weights = jnp.asarray(class_weights or [1.0] * spec.num_classes, jnp.float32)

    def loss(inputs: LossInputs):
        logits, labels = inputs.outputs["logits"], inputs.batch["label"]
        each = weights[labels]
        ce = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        ce = jnp.sum(each * ce) / jnp.sum(each)
        top1 = classification.accuracy(inputs.outputs["logits"], inputs.batch)
        return Loss(ce, inputs.model_state, {"ce": ce, "top1": top1})

    init, forward, predict = _functions(spec.network, spec.image_shape, spec.input_key)
    return Method(
        init=init,
        targets={},
        forward=forward,
        loss=loss,
        predict=predict,
        evaluate=classification.evaluate,
        evaluator=_evaluator,
        warm_start=_starting(start_from),
        warm_head=False,
    )


def _starting(name: str):
    return warm_start.trunk_of_needed_run(name, "fc") if name else None


# Cached, so that students of one network share one compiled body.
@functools.cache
def _functions(network: nn.Module, shape: tuple[int, ...], input_key: str):
    init = init_student(network, shape)

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        variables = {"params": params["student"], **model_state["student"]}
        (logits, _), updated = network.apply(
            variables,
            batch[input_key],
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state["student"]),
        )
        return {"logits": logits}, {**model_state, "student": updated}

    def predict(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        if EXPLAIN in batch and isinstance(network, NLRAN):
            logits, heat = heatmaps.explain(network, variables, batch[input_key])
            return {"logits": logits, "heat": heat}
        return {"logits": network.apply(variables, batch[input_key], train=False)[0]}

    return init, forward, predict


def _evaluator(trained):
    from jaxkd.evaluators import ct

    return ct.evaluate(trained)
