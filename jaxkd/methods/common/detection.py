"""Detection by FCOS as a ``Method``: losses of a head, and average precision.

Fields: ``boxes`` ``[batch, most, 4]`` in pixels of the field ``image``, and ``classes``
``[batch, most]``, -1 for padding. Networks may read a smaller image than that.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics

from jaxkd import losses
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
from jaxkd.methods.common.networks import NetworkFunctions, init_student
from jaxkd.models import fcos

SCORE = Score("ap50", "AP at overlap 0.5")
BINS = 256  # of scores, in the average precision that is measured while training
IMAGE = "image"


class Layout(NamedTuple):
    """Where a detector looks.

    Attributes:
      size: height and width of the large image.
      strides: of the levels, in its pixels.
      ranges: of the largest distance to a side, of the levels.
    """

    size: tuple[int, int]
    strides: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]


def layout(spec: Spec) -> Layout:
    """Returns the layout of the run's detector.

    The finest level has stride 8, and sees distances up to 64 pixels, or with fewer
    than five levels up to 24.

    Raises:
      UserError: if the network is no detector, the data have no boxes, or a side does
        not divide by the largest stride.
    """
    levels = getattr(spec.network, "levels", 0)
    fields = [name for name in ("boxes", "classes", IMAGE) if name not in spec.fields]
    if not levels or fields:
        raise UserError(
            f"Detection needs a network such as 'fcos_small' and data with boxes; the "
            f"network has {levels} levels, and the data lack {fields or 'nothing'}."
        )
    height, width = spec.fields[IMAGE].shape[:2]
    strides = fcos.STRIDES[:levels]
    if height % strides[-1] or width % strides[-1]:
        raise UserError(
            f"Images are {height} x {width} pixels, expected multiples of the largest "
            f"stride {strides[-1]}. Change config.data.side or size, or levels."
        )
    first = 64 if levels == len(fcos.STRIDES) else 24
    edges = [-1.0, *(float(first * 2**i) for i in range(levels - 1)), float("inf")]
    ranges = tuple(itertools.pairwise(edges))
    return Layout((height, width), strides, ranges)


def head_losses(
    outputs: Mapping[str, jax.Array],
    batch: Batch,
    where: Layout,
    *,
    official: bool = False,
) -> dict[str, jax.Array]:
    """Computes FCOS's three losses of a batch.

    ``class``: the focal loss over the number of positive locations of the batch;
    ``box``: the GIoU loss weighted by the centre-ness of the location, over its sum;
    ``centerness``: the binary cross-entropy over the number of positive locations.

    Args:
      outputs: of a head.
      batch: with boxes and classes.
      where: the layout.
      official: see ``losses.iou_loss``; distances are in strides.

    Returns:
      name -> scalar.
    """
    found = fcos.targets(
        batch["boxes"],
        batch["classes"],
        where.size,
        strides=where.strides,
        ranges=where.ranges,
    )
    positive = found.classes >= 0
    count = jnp.maximum(jnp.sum(positive), 1)
    logits = outputs["logits"]
    truth = jax.nn.one_hot(found.classes, logits.shape[-1])
    focal = losses.focal(logits, truth, alpha=0.25, gamma=2.0)
    sign = jnp.array([-1.0, -1, 1, 1])
    # Where there is no object both boxes are a fixed square, so that nothing is 0 / 0.
    square = jnp.ones(4)
    predicted = jnp.where(positive[..., None], outputs["distances"], square)
    true = jnp.where(positive[..., None], found.distances, square)
    overlap = losses.iou_loss(
        sign * predicted, sign * true, kind="giou", official=official
    )
    weight = jnp.where(positive, found.centerness, 0)
    centre = optax.sigmoid_binary_cross_entropy(outputs["centerness"], found.centerness)
    return {
        "class": jnp.sum(focal) / count,
        "box": jnp.sum(weight * overlap) / jnp.maximum(jnp.sum(weight), 1e-6),
        "centerness": jnp.sum(jnp.where(positive, centre, 0)) / count,
    }


def known(value: jax.Array) -> Callable[[LossInputs], jax.Array]:
    """Makes a term's function of a value that is computed already."""

    def function(inputs: LossInputs) -> jax.Array:
        del inputs
        return value

    return function


@flax.struct.dataclass
class BinnedPrecision(metrics.Metric):
    """Counts of detections by class and score, and of objects by class.

    The average precision of these counts takes detections of one bin as one: it comes
    close to COCO's, which the evaluator computes exactly after training.
    """

    counts: jax.Array
    truths: jax.Array

    @classmethod
    def from_model_output(
        cls, *, detections, boxes, classes, mask, num_classes, **_
    ) -> "BinnedPrecision":
        """Matches the detections of unmasked images at an overlap of 0.5."""
        hit = jax.vmap(match)(detections, boxes, classes)
        place = jnp.clip((detections.scores * BINS).astype(jnp.int32), 0, BINS - 1)
        real = (detections.classes >= 0) & mask[:, None]
        counts = jnp.zeros((num_classes, BINS, 2), jnp.int32)
        label = jnp.maximum(detections.classes, 0)
        counts = counts.at[label, place, hit.astype(jnp.int32)].add(real)
        there = (classes >= 0) & mask[:, None]
        truths = jnp.zeros(num_classes, jnp.int32)
        return cls(counts, truths.at[jnp.maximum(classes, 0)].add(there))

    def merge(self, other: "BinnedPrecision") -> "BinnedPrecision":
        """Adds the counts of two sets of images."""
        return BinnedPrecision(self.counts + other.counts, self.truths + other.truths)

    def compute(self) -> jax.Array:
        """Returns the mean average precision over the classes that occur."""
        total = jnp.cumsum(self.counts[:, ::-1].astype(jnp.float32), axis=1)
        hits, found = total[..., 1], jnp.sum(total, axis=-1)
        precision = hits / jnp.maximum(found, 1)
        # The best precision at this recall or beyond
        best = jax.lax.cummax(precision[:, ::-1], axis=1)[:, ::-1]
        recall = hits / jnp.maximum(self.truths[:, None], 1)
        gained = jnp.diff(recall, axis=1, prepend=0)
        each = jnp.sum(gained * best, axis=1)
        occurs = self.truths > 0
        count = jnp.sum(occurs)
        mean = jnp.sum(jnp.where(occurs, each, 0)) / jnp.maximum(count, 1)
        return jnp.where(count > 0, mean, jnp.nan)


def match(detections: fcos.Detections, boxes: jax.Array, classes: jax.Array):
    """Marks detections that find an object, each object once, best scores first."""
    overlap = losses.overlap(detections.boxes[:, None], boxes[None])
    same = detections.classes[:, None] == classes[None]
    overlap = jnp.where(same & (classes >= 0)[None], overlap, 0)

    def visit(index, carry):
        hits, taken = carry
        free = jnp.where(taken, 0, overlap[index])
        best = jnp.argmax(free)
        hit = free[best] >= 0.5
        return hits.at[index].set(hit), taken.at[best].set(taken[best] | hit)

    start = jnp.zeros(len(overlap), bool), jnp.zeros(len(boxes), bool)
    return jax.lax.fori_loop(0, len(overlap), visit, start)[0]


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """The average precision at overlap 0.5."""

    ap50: BinnedPrecision


def evaluation(num_classes: int) -> Callable[[Any, Batch], Evaluation]:
    """Returns the evaluation: the average precision at overlap 0.5, by bins."""
    return _evaluation(num_classes)


# Cached, so that all students of a run hold one function.
@functools.cache
def _evaluation(num_classes: int) -> Callable[[Any, Batch], Evaluation]:
    def evaluate(outputs: Any, batch: Batch) -> Evaluation:
        return Evaluation.single_from_model_output(
            detections=fcos.Detections(**outputs),
            boxes=batch["boxes"],
            classes=batch["classes"],
            mask=batch["mask"],
            num_classes=num_classes,
        )

    return evaluate


def detector(
    spec: Spec,
    loss: Callable[[LossInputs], Loss],
    targets: Mapping[str, Callable] | None = None,
) -> Method:
    """Makes a detector's method from its loss.

    Four detections are kept for every object that an image may have, at least 20 and,
    as in COCO's evaluation, at most 100.

    Args:
      spec: of the run.
      loss: as in ``Method``; ``inputs.outputs`` has ``head`` and ``features``.
      targets: likewise.
    """
    where = layout(spec)
    num_boxes = max(20, min(4 * spec.fields["boxes"].shape[0], 100))
    functions = _network(
        spec.network, spec.image_shape, spec.input_key, where, num_boxes
    )
    return Method(
        targets=dict(targets or {}),
        loss=loss,
        evaluate=evaluation(spec.num_classes),
        score=SCORE,
        evaluator=evaluator(),
        **functions._asdict(),
    )


@functools.cache
def _network(network, image_shape, input_key: str, where: Layout, num_boxes: int):
    first_level = level_of(where, image_shape)

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        del key
        variables = {"params": params["student"], **model_state["student"]}
        (head, features), updated = network.apply(
            variables,
            batch[input_key],
            train=True,
            first_level=first_level,
            mutable=list(model_state["student"]),
        )
        outputs = {"head": head, "features": features}
        return outputs, {**model_state, "student": updated}

    def predict(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        head, _ = network.apply(
            variables, batch[input_key], train=False, first_level=first_level
        )
        found = fcos.decode(
            head,
            where.size,
            strides=where.strides,
            candidates=10 * num_boxes,
            num_boxes=num_boxes,
        )
        return found._asdict()

    return NetworkFunctions(init_student(network, image_shape), forward, predict)


def level_of(where: Layout, image_shape: tuple[int, ...]) -> int:
    """Returns the pyramid's finest level for images of some size: 3, or 2 for half.

    Raises:
      UserError: for any other size.
    """
    for level, part in ((3, 1), (2, 2)):
        if tuple(side * part for side in image_shape[:2]) == where.size:
            return level
    raise UserError(
        f"The network reads images of {image_shape[:2]} and boxes are of "
        f"{where.size}, expected that size or half of it."
    )


# Cached, so that all students of a run are evaluated together.
@functools.cache
def evaluator() -> Callable[[Any], Any]:
    """Returns the evaluator: COCO's average precisions, and boxes drawn."""

    def evaluate(trained: Any) -> Any:
        from jaxkd.evaluators import detection

        return detection.find(trained)

    return evaluate
