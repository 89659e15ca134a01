"""DeFI-Net: localisation of inpainted regions (arXiv:2408.02191).

Batches hold ``target_mask`` ``[batch, height, width]`` in [0, 1], soft where it was
resampled; the boundary is computed from it on the device.
"""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Score,
    Spec,
)
from jaxkd.losses import localization
from jaxkd.methods.common import warm_start
from jaxkd.methods.common.networks import NetworkFunctions, init_student
from jaxkd.methods.common.terms import Term, add_up

IOU = Score("iou", "IoU of tampered pixels")

# What --mode=predict makes of files; see ``jaxkd.predictors``.
PREDICTOR = "localization"


def _mean_over(name: str, where: str) -> type[metrics.Average]:
    """Makes a mean of one output over the examples that another marks."""

    @flax.struct.dataclass
    class Mean(metrics.Average):
        @classmethod
        def from_model_output(cls, **outputs: Any) -> "Mean":
            chosen = outputs["mask"] & outputs[where]
            # What is undefined elsewhere must not reach the sum.
            values = jnp.where(chosen, outputs[name], 0)
            return super().from_model_output(values=values, mask=chosen)

    return Mean


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """Means over images: IoU and F1 where tampered, marked pixels where not, loss."""

    iou: _mean_over("iou", "tampered")  # type: ignore[valid-type]
    f1: _mean_over("f1", "tampered")  # type: ignore[valid-type]
    flagged: _mean_over("flagged", "authentic")  # type: ignore[valid-type]
    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]


def evaluate(outputs: dict[str, jax.Array], batch: Batch) -> Evaluation:
    """Compares logits with masks at the probability of one half.

    IoU and F1 are those of the tampered class and of each image; an image without any
    tampered pixel counts as authentic, and tells what fraction of it is marked.
    """
    logits, masks = outputs["logits"][..., 0], batch["target_mask"]
    iou, f1, marked = _overlap(logits, masks)
    tampered = jnp.any(masks > 0.5, axis=(-2, -1))
    return Evaluation.single_from_model_output(
        mask=batch["mask"],
        tampered=tampered,
        authentic=~tampered,
        iou=iou,
        f1=f1,
        flagged=marked,
        loss=localization.structure_loss(logits, masks),
    )


def _overlap(logits: jax.Array, masks: jax.Array):
    """Returns IoU and F1 of the tampered class, and the part that is marked."""
    truth, marked = masks > 0.5, logits >= 0
    axes = (-2, -1)
    inside = jnp.sum(truth & marked, axis=axes)
    either = jnp.sum(truth | marked, axis=axes)
    iou = inside / jnp.maximum(either, 1)
    return iou, 2 * iou / (1 + iou), jnp.mean(marked, axis=axes, dtype=jnp.float32)


@functools.cache
def _network(
    network: nn.Module,
    image_shape: tuple[int, ...],
    input_key: str,
) -> NetworkFunctions:
    def apply(params: Params, model_state: ModelState, batch: Batch, **options: Any):
        variables = {"params": params["student"], **model_state["student"]}
        return network.apply(variables, batch[input_key], **options)

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        del key
        (logits, features), updated = apply(
            params, model_state, batch, train=True, mutable=list(model_state["student"])
        )
        outputs = {"logits": logits, "edge": features["edge"]}
        return outputs, {**model_state, "student": updated}

    def predict(params: Params, model_state: ModelState, batch: Batch):
        logits, features = apply(params, model_state, batch, train=False)
        return {"logits": logits, "edge": features["edge"]}

    return NetworkFunctions(init_student(network, image_shape), forward, predict)


def make(
    spec: Spec,
    *,
    segmentation_weight: float = 5.0,
    edge_weight: float = 1.0,
    official: bool = False,
    negative_weight: float = 1.0,
    start_from: str = "",
) -> Method:
    """Makes a localiser of structure loss and boundary loss.

    Args:
      spec: the run; its batches hold ``target_mask``.
      segmentation_weight: of the structure loss.
      edge_weight: of the boundary loss; 0 leaves the edge head untrained.
      official: whether pixels weigh alike in the cross entropies, as in the official
        code; see ``jaxkd.losses.localization``.
      negative_weight: of hard negatives in both losses, whose means are weighted ones:
        images with a ``region`` that was smoothed and no tampered pixel. With 0 nothing
        is learnt from them, and batch normalisation alone sees them.
      start_from: name of a needed run whose backbone the network starts with, such as
        one that ``python -m jaxkd.convert from-torch --part=backbone`` has written.

    Raises:
      UserError: if hard negatives are to weigh less, and the data set marks none.
    """
    if negative_weight != 1 and "region" not in spec.fields:
        raise UserError(
            f"negative_weight is {negative_weight}, but the batches hold no 'region' "
            f"that tells hard negatives, only {', '.join(spec.fields)}. Leave it out, "
            "or train on the data set 'inpainted'."
        )

    def weighted(inputs: LossInputs, losses: jax.Array) -> jax.Array:
        if negative_weight == 1:
            return losses
        return losses * _weights(inputs.batch, negative_weight)

    def segmentation(inputs: LossInputs) -> jax.Array:
        logits, masks = _logits_and_masks(inputs)
        losses = localization.structure_loss(logits, masks, official=official)
        return weighted(inputs, losses)

    def edge(inputs: LossInputs) -> jax.Array:
        ring = localization.edge_ring(inputs.batch["target_mask"])
        logits = inputs.outputs["edge"][..., 0]
        losses = localization.boundary_loss(logits, ring, official=official)
        return weighted(inputs, losses)

    terms = {
        "segmentation": Term(segmentation_weight, segmentation),
        "edge": Term(edge_weight, edge),
    }

    def loss(inputs: LossInputs) -> Loss:
        total = add_up(inputs, terms)
        logits, masks = _logits_and_masks(inputs)
        tampered = jnp.any(masks > 0.5, axis=(-2, -1))
        count = jnp.maximum(jnp.sum(tampered), 1)
        iou = jnp.sum(jnp.where(tampered, _overlap(logits, masks)[0], 0)) / count
        return total._replace(metrics={"iou": iou} | total.metrics)

    functions = _network(spec.network, spec.image_shape, spec.input_key)
    return Method(
        targets={},
        loss=loss,
        evaluate=evaluate,
        score=IOU,
        warm_start=_starting(start_from),
        evaluator=_evaluator,
        **functions._asdict(),
    )


def _weights(batch: Batch, negative_weight: float) -> jax.Array:
    """Returns the weight of each example, of mean 1, ``[batch]``."""
    region, masks = (
        jnp.any(batch[name] > 0, axis=(-2, -1)) for name in ("region", "target_mask")
    )
    weights = jnp.where(region & ~masks, negative_weight, 1.0)
    return weights / jnp.maximum(jnp.mean(weights), 1e-6)


def _logits_and_masks(inputs: LossInputs) -> tuple[jax.Array, jax.Array]:
    return inputs.outputs["logits"][..., 0], inputs.batch["target_mask"]


def _starting(name: str) -> Any:
    return warm_start.from_needed_run(name, "hrnet") if name else None


def _evaluator(trained: Any) -> Any:
    # Here, because it needs libraries that training does not.
    from jaxkd.evaluators import localization as evaluator

    return evaluator.evaluate(trained)
