"""Boxes of a detector without anchors: locations, targets, decoding, suppression.

Boxes are corners ``(left, top, right, bottom)`` in pixels of the image. A *location* is
a cell of a feature pyramid; all levels' cells stand in one row, from the finest to the
coarsest level, row by row. All shapes are static, so that this compiles with the
detector.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.losses.detection import overlap

STRIDES = (8, 16, 32, 64, 128)
RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, float("inf")))
BACKGROUND = -1


def locations(
    size: tuple[int, int], strides: Sequence[int] = STRIDES
) -> tuple[jax.Array, jax.Array]:
    """Lists the locations of an image.

    Args:
      size: height and width of the (large) image.
      strides: of the levels.

    Returns:
      Centres ``(x, y)`` in pixels, ``[locations, 2]``, which lie at
      ``index stride + stride // 2``, and each location's level ``[locations]``.

    >>> places, level = locations((8, 16), strides=(8, 16))
    >>> places.tolist(), level.tolist()
    ([[4.0, 4.0], [12.0, 4.0], [8.0, 8.0]], [0, 0, 1])
    """
    places, levels = [], []
    for level, stride in enumerate(strides):
        rows, columns = (-(-side // stride) for side in size)
        y, x = np.mgrid[:rows, :columns] * stride + stride // 2
        places.append(np.stack([x.ravel(), y.ravel()], axis=-1))
        levels.append(np.full(rows * columns, level))
    return (
        jnp.asarray(np.concatenate(places), jnp.float32),
        jnp.asarray(np.concatenate(levels)),
    )


class Targets(NamedTuple):
    """What the head should answer, at each location.

    Attributes:
      classes: integers ``[..., locations]``, ``BACKGROUND`` (-1) outside of objects.
      distances: to the left, top, right and bottom side, in strides of the level,
        ``[..., locations, 4]``; 0 outside.
      centerness: in [0, 1], ``[..., locations]``; 0 outside.
    """

    classes: jax.Array
    distances: jax.Array
    centerness: jax.Array


def targets(
    boxes: jax.Array,
    classes: jax.Array,
    size: tuple[int, int],
    *,
    strides: Sequence[int] = STRIDES,
    ranges: Sequence[tuple[float, float]] = RANGES,
    radius: float = 1.5,
) -> Targets:
    """Assigns objects to locations, as FCOS with centre sampling does.

    A location answers for an object if it lies inside the square of ``radius`` strides
    around the object's centre, clipped to the box, and the largest distance to a side
    is in the range of its level, both ends included. Of several such objects it takes
    the one of smallest area, and of equal ones the first (arXiv:1904.01355, section
    3.1; centre sampling is of the authors' code).

    Args:
      boxes: corners ``[..., objects, 4]`` in pixels of the large image.
      classes: integers ``[..., objects]``; negative ones pad.
      size: height and width of the large image.
      strides: of the levels.
      ranges: (least, largest) distance in pixels, of the levels.
      radius: in strides; 0 samples whole boxes.

    Returns:
      Of every location, see ``Targets``.

    Raises:
      ValueError: if shapes do not fit.

    >>> import jax.numpy as jnp
    >>> found = targets(jnp.array([[0.0, 0, 8, 8]]), jnp.array([3]), (16, 16),
    ...                 strides=(8,), ranges=((-1, 64),))
    >>> found.classes.tolist(), found.distances[0].tolist(), float(found.centerness[0])
    ([3, -1, -1, -1], [0.5, 0.5, 0.5, 0.5], 1.0)
    """
    shape = jnp.shape(boxes)
    if shape[-1:] != (4,) or shape[:-1] != jnp.shape(classes):
        raise ValueError(
            f"boxes have shape {shape} and classes {jnp.shape(classes)}, expected "
            "[..., objects, 4] and [..., objects]."
        )
    if len(strides) != len(ranges):
        raise ValueError(
            f"there are {len(strides)} strides and {len(ranges)} ranges, expected one "
            "range per level."
        )
    if shape[-2] == 0:  # one of padding, lest there be nothing to choose from
        boxes = jnp.zeros((*shape[:-2], 1, 4))
        classes = jnp.full((*shape[:-2], 1), BACKGROUND)
    places, level = locations(size, strides)
    stride = jnp.asarray(strides, jnp.float32)[level][:, None]
    low, high = jnp.asarray(ranges, jnp.float32)[level].T
    corners = jnp.asarray(boxes, jnp.float32)[..., None, :, :]
    sides = _sides(places[:, None], corners)  # [..., locations, objects, 4]
    inside = jnp.min(sides, axis=-1) > 0
    if radius > 0:
        centre = (corners[..., :2] + corners[..., 2:]) / 2
        reach = radius * stride[..., None]
        near = jnp.concatenate(
            [
                jnp.maximum(centre - reach, corners[..., :2]),
                jnp.minimum(centre + reach, corners[..., 2:]),
            ],
            axis=-1,
        )
        inside = jnp.min(_sides(places[:, None], near), axis=-1) > 0
    largest = jnp.max(sides, axis=-1)
    fits = inside & (largest >= low[:, None]) & (largest <= high[:, None])
    fits &= (jnp.asarray(classes) >= 0)[..., None, :]
    area = jnp.prod(corners[..., 2:] - corners[..., :2], axis=-1)
    area = jnp.where(fits, area, jnp.inf)
    chosen = jnp.argmin(area, axis=-1)
    found = jnp.any(fits, axis=-1)
    answer = jnp.take_along_axis(sides, chosen[..., None, None], axis=-2)[..., 0, :]
    answer = jnp.where(found[..., None], answer, 0)
    chosen_class = jnp.take_along_axis(
        jnp.broadcast_to(jnp.asarray(classes)[..., None, :], fits.shape),
        chosen[..., None],
        axis=-1,
    )[..., 0]
    return Targets(
        jnp.where(found, chosen_class, BACKGROUND),
        answer / stride,
        jnp.where(found, _centerness(answer), 0),
    )


def _sides(places: jax.Array, corners: jax.Array) -> jax.Array:
    """Computes the distances from places to the left, top, right, bottom side."""
    return jnp.concatenate(
        [places - corners[..., :2], corners[..., 2:] - places], axis=-1
    )


def _centerness(sides: jax.Array) -> jax.Array:
    """Computes ``sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b))``."""
    across, down = sides[..., 0::2], sides[..., 1::2]

    def ratio(pair):
        largest = jnp.max(pair, axis=-1)
        positive = largest > 0
        return jnp.where(
            positive, jnp.min(pair, -1) / jnp.where(positive, largest, 1), 0
        )

    return jnp.sqrt(jnp.maximum(ratio(across) * ratio(down), 0))


class Detections(NamedTuple):
    """The objects found in images.

    Attributes:
      boxes: corners in pixels of the large image, ``[batch, num_boxes, 4]``.
      scores: ``[batch, num_boxes]``, best first, 0 for padding.
      classes: integers ``[batch, num_boxes]``, -1 for padding.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array


def decode(
    outputs: Mapping[str, jax.Array],
    size: tuple[int, int],
    *,
    strides: Sequence[int] = STRIDES,
    least: float = 0.05,
    candidates: int = 1000,
    threshold: float = 0.6,
    num_boxes: int = 100,
) -> Detections:
    """Turns a head's answers into boxes, with non-maximum suppression.

    Pairs of location and class whose probability exceeds ``least`` are ranked by
    ``sqrt(probability centerness)``; the best ``candidates`` go through ``nms``.

    Args:
      outputs: as ``FCOS`` returns them.
      size: height and width of the large image; boxes are clipped to it.
      strides: of the levels.
      least: probability.
      candidates: see above.
      threshold: see ``nms``.
      num_boxes: most boxes of an image.
    """
    places, level = locations(size, strides)
    scale = jnp.asarray(strides, jnp.float32)[level][:, None]
    limits = jnp.asarray([size[1], size[0]] * 2, jnp.float32)

    def one(logits, distances, centerness):
        sides = distances * scale
        corners = jnp.concatenate([places - sides[:, :2], places + sides[:, 2:]], -1)
        corners = jnp.clip(corners, 0, limits)
        p = nn.sigmoid(logits)
        score = jnp.sqrt(p * nn.sigmoid(centerness)[:, None])
        flat = jnp.where(p > least, score, 0).reshape(-1)
        best, index = jax.lax.top_k(flat, min(candidates, flat.size))
        box, label = corners[index // p.shape[-1]], index % p.shape[-1]
        kept, valid = nms(box, best, label, threshold=threshold, num_boxes=num_boxes)
        return Detections(
            jnp.where(valid[:, None], box[kept], 0),
            jnp.where(valid, best[kept], 0),
            jnp.where(valid, label[kept], -1),
        )

    names = ("logits", "distances", "centerness")
    return jax.vmap(one)(*(outputs[name] for name in names))


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    *,
    threshold: float = 0.6,
    num_boxes: int = 100,
) -> tuple[jax.Array, jax.Array]:
    """Suppresses boxes that overlap a better one of the same class.

    From the best to the worst, a box is kept unless a kept box of its class overlaps it
    by *more* than ``threshold``. Equal scores keep their order. The cost grows with the
    square of the candidates: take the best thousand first.

    Args:
      boxes: corners ``[candidates, 4]``.
      scores: ``[candidates]``; those of 0 or less do not count.
      classes: integers ``[candidates]``.
      threshold: overlap (IoU) above which a box is suppressed.
      num_boxes: most boxes to keep.

    Returns:
      Indices ``[num_boxes]`` into the candidates, best first, and whether there is such
      a box.

    >>> import jax.numpy as jnp
    >>> boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 1.8], [5, 5, 6, 6]])
    >>> kept, valid = nms(boxes, jnp.array([0.5, 0.9, 0.2]), jnp.zeros(3, int),
    ...                   num_boxes=3)
    >>> kept[valid].tolist()
    [1, 2]
    """
    order = jnp.argsort(-scores, stable=True)
    sorted_boxes, sorted_classes = boxes[order], classes[order]
    candidates = scores[order] > 0
    same = sorted_classes[:, None] == sorted_classes[None, :]
    hits = overlap(sorted_boxes[:, None], sorted_boxes[None, :]) > threshold
    places = jnp.arange(len(order))
    rivals = same & hits & (places[None, :] < places[:, None])  # the better ones

    def visit(index, kept):
        beaten = jnp.any(rivals[index] & kept)
        return kept.at[index].set(candidates[index] & ~beaten)

    kept = jax.lax.fori_loop(0, len(order), visit, jnp.zeros(len(order), bool))
    first = jnp.argsort(~kept, stable=True)[:num_boxes]
    missing = max(num_boxes - len(order), 0)
    first = jnp.pad(first, (0, missing))
    valid = jnp.pad(kept, (0, missing))[first] & (jnp.arange(num_boxes) < kept.sum())
    return order[first], valid
