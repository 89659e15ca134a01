"""DeFI-Net: localisation of inpainted regions (arXiv:2408.02191).

Batches hold ``target_mask`` ``[batch, height, width]`` in [0, 1], soft where it was
resampled; the boundary is computed from it on the device.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd.core.types import Aux, Batch, Extra, Method, Params, Score, Spec
from jaxkd.losses import localization

IOU = Score("iou", "IoU of tampered pixels")

METRICS = ("segmentation", "edge", "iou")

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


class _Network(NamedTuple):
    init: Callable
    forward: Callable
    predict: Callable


@functools.cache
def _network(
    network: nn.Module,
    image_shape: tuple[int, ...],
    reads: str,
    clamp: float,
    backbone: str,
) -> _Network:
    def init(key: jax.Array) -> tuple[Params, Extra]:
        variables = dict(network.init(key, jnp.zeros((1, *image_shape))))
        if backbone:
            variables = _with_backbone(variables, network, backbone)
        params = variables.pop("params")
        return {"student": params}, {"student": variables}

    def apply(params: Params, extra: Extra, batch: Batch, **options: Any):
        variables = {"params": params["student"], **extra["student"]}
        return network.apply(variables, batch[reads], **options)

    def forward(params: Params, extra: Extra, batch: Batch, key: jax.Array):
        del key
        params = clamp_gradient(params, clamp) if clamp else params
        (logits, features), updated = apply(
            params, extra, batch, train=True, mutable=list(extra["student"])
        )
        outputs = {"logits": logits, "edge": features["edge"]}
        return outputs, {**extra, "student": updated}

    def predict(params: Params, extra: Extra, batch: Batch):
        logits, features = apply(params, extra, batch, train=False)
        return {"logits": logits, "edge": features["edge"]}

    return _Network(init, forward, predict)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def clamp_gradient(tree: Any, most: float) -> Any:
    """Passes a tree on, and each entry of its gradient back cut to ``[-most, most]``.

    The official code clamps gradients elementwise before the optimiser sees them.
    """
    del most
    return tree


def _clamp_forward(tree: Any, most: float):
    del most
    return tree, None


def _clamp_backward(most: float, _: None, gradient: Any):
    return (jax.tree.map(lambda g: jnp.clip(g, -most, most), gradient),)


clamp_gradient.defvjp(_clamp_forward, _clamp_backward)


def _with_backbone(variables: dict[str, Any], network: nn.Module, path: str):
    """Starts the backbone from a checkpoint of HRNet; tells what fitted."""
    from jaxkd.convert import defi

    loaded, report = defi.load_backbone(path, variables, network)
    print(f"{path}: {report}", file=sys.stderr, flush=True)
    return loaded


def make(
    spec: Spec,
    *,
    segmentation_weight: float = 5.0,
    edge_weight: float = 1.0,
    official: bool = False,
    clamp: float = 0.5,
    backbone: str = "",
) -> Method:
    """Makes a localiser of structure loss and boundary loss.

    Args:
      spec: the run; its batches hold ``target_mask``.
      segmentation_weight: of the structure loss.
      edge_weight: of the boundary loss; 0 leaves the edge head untrained.
      official: whether pixels weigh alike in the cross entropies, as in the official
        code; see ``jaxkd.losses.localization``.
      clamp: largest entry of a gradient; 0 for no limit.
      backbone: file of an HRNet's weights to start from, see ``jaxkd.convert.defi``.
    """

    def loss(params, extra, outputs, batch, targets, key, step):
        del params, targets, key, step
        logits, masks = outputs["logits"][..., 0], batch["target_mask"]
        segmentation = jnp.mean(
            localization.structure_loss(logits, masks, official=official)
        )
        ring = localization.edge_ring(masks)
        edge = jnp.mean(
            localization.boundary_loss(outputs["edge"][..., 0], ring, official=official)
        )
        total = segmentation_weight * segmentation + edge_weight * edge
        tampered = jnp.any(masks > 0.5, axis=(-2, -1))
        count = jnp.maximum(jnp.sum(tampered), 1)
        iou = jnp.sum(jnp.where(tampered, _overlap(logits, masks)[0], 0)) / count
        measured = {"segmentation": segmentation, "edge": edge, "iou": iou}
        return total, Aux(extra, measured)

    functions = _network(spec.network, spec.image_shape, spec.reads, clamp, backbone)
    return Method(
        targets={},
        loss=loss,
        metrics=METRICS,
        evaluate=evaluate,
        score=IOU,
        assess=_assess,
        **functions._asdict(),
    )


def _assess(trained: Any) -> Any:
    # Here, because it needs libraries that training does not.
    from jaxkd.evaluators import localization as defi_assess

    return defi_assess.assess(trained)
