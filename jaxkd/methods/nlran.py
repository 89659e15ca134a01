"""NL-RAN: a classifier of CT volumes whose heat maps are measured (arXiv:2408.04300).

Trains with cross entropy. After training it compares the students with two classifiers
of plain intensities, their heat maps with known lesions, and both with what the bare
intensity of a voxel says; see ``jaxkd.evaluators.ct``.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxkd.core.types import Aux, Batch, Extra, Method, Params, Spec
from jaxkd.methods.common import classification
from jaxkd.models.ct import heatmaps
from jaxkd.models.ct.nlran import NLRAN

PREDICTOR = "ct"

# A field that asks ``predict`` for heat maps, too.
EXPLAIN = "explain"


def make(
    spec: Spec, *, label_smoothing: float = 0.0, class_weights: Sequence[float] = ()
) -> Method:
    """Makes a classifier of volumes.

    Args:
      spec: the run.
      label_smoothing: probability mass spread evenly over all classes.
      class_weights: of the classes' examples in the loss, such as the inverse of their
        frequencies; all the same if not given.

    Raises:
      ValueError: if there are weights, but not one for each class.
    """
    if class_weights and len(class_weights) != spec.num_classes:
        raise ValueError(
            f"class_weights has {len(class_weights)} numbers, wanted "
            f"{spec.num_classes}, one per class."
        )
    weights = jnp.asarray(class_weights or [1.0] * spec.num_classes, jnp.float32)

    def loss(params, extra, outputs, batch, targets, key, step):
        del params, targets, key, step
        labels = optax.smooth_labels(
            jnp.eye(spec.num_classes)[batch["label"]], label_smoothing
        )
        each = weights[batch["label"]]
        ce = optax.softmax_cross_entropy(outputs["logits"], labels)
        ce = jnp.sum(each * ce) / jnp.sum(each)
        top1 = classification.accuracy(outputs["logits"], batch)
        return ce, Aux(extra, {"ce": ce, "top1": top1})

    init, forward, predict = _functions(spec.network, spec.image_shape, spec.reads)
    return Method(
        init=init,
        targets={},
        forward=forward,
        loss=loss,
        metrics=("ce", "top1"),
        predict=predict,
        evaluate=classification.evaluate,
        assess=_assess,
    )


# Cached, so that students of one network share one compiled body.
@functools.cache
def _functions(network: nn.Module, shape: tuple[int, ...], reads: str):
    def init(key: jax.Array) -> tuple[Params, Extra]:
        variables = dict(network.init(key, jnp.zeros((1, *shape))))
        params = variables.pop("params")
        return {"student": params}, {"student": variables}

    def forward(params: Params, extra: Extra, batch: Batch, key: jax.Array):
        variables = {"params": params["student"], **extra["student"]}
        (logits, _), updated = network.apply(
            variables,
            batch[reads],
            train=True,
            rngs={"dropout": key},
            mutable=list(extra["student"]),
        )
        return {"logits": logits}, {**extra, "student": updated}

    def predict(params: Params, extra: Extra, batch: Batch):
        variables = {"params": params["student"], **extra["student"]}
        if EXPLAIN in batch and isinstance(network, NLRAN):
            logits, heat = heatmaps.explain(network, variables, batch[reads])
            return {"logits": logits, "heat": heat}
        return {"logits": network.apply(variables, batch[reads], train=False)[0]}

    return init, forward, predict


def _assess(trained):
    from jaxkd.evaluators import ct

    return ct.assess(trained)
