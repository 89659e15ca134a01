"""Losses of dense object detectors: classes, boxes, and features of a pyramid.

Boxes are corners ``(left, top, right, bottom)``, in pixels or any other unit. See
``jaxkd.losses`` for the shared conventions; these losses return one value per logit or
per box, because detectors normalise by the number of objects, not of locations.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxkd.losses.numerics import at_least_float32

KINDS = ("iou", "linear_iou", "giou")
_TINY = 1e-7


def focal(
    logits: jax.Array, targets: jax.Array, *, alpha: float = 0.25, gamma: float = 2.0
) -> jax.Array:
    """Computes the sigmoid focal loss of every logit.

    ``-a (1 - p)^gamma log p`` with ``p`` the probability given to the truth: for a
    target of 1 ``p = sigmoid(z)`` and ``a = alpha``, for 0 ``p = sigmoid(-z)`` and
    ``a = 1 - alpha``. Lin et al., "Focal Loss for Dense Object Detection"
    (arXiv:1708.02002, equation 5). Targets between 0 and 1 mix the two.

    Args:
      logits: ``[...]``, such as ``[batch, locations, classes]``.
      targets: the same shape, in [0, 1].
      alpha: weight of the positives, in [0, 1]; negative values weigh neither side.
      gamma: from 0, which is cross-entropy.

    Returns:
      ``[...]``; detectors divide the sum by the number of positive locations.

    Raises:
      ValueError: if shapes differ or an option is out of its range.

    >>> import jax.numpy as jnp
    >>> loss = focal(jnp.zeros(2), jnp.array([1.0, 0.0]), alpha=0.25, gamma=2.0)
    >>> [round(float(x), 4) for x in loss]  # 0.25 * 0.25 * log 2, and 3 times as much
    [0.0433, 0.13]
    """
    if jnp.shape(logits) != jnp.shape(targets):
        raise ValueError(
            f"logits have shape {jnp.shape(logits)} and targets {jnp.shape(targets)}, "
            "expected equal. Turn class numbers into one-hot rows (jax.nn.one_hot)."
        )
    if alpha > 1 or gamma < 0:
        raise ValueError(
            f"alpha is {alpha} and gamma {gamma}, expected alpha up to 1 and gamma "
            "from 0."
        )
    z, y = at_least_float32(logits), at_least_float32(targets)
    positive = _modulated(z, gamma)
    negative = _modulated(-z, gamma)
    if alpha >= 0:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return y * positive + (1 - y) * negative


def _modulated(z: jax.Array, gamma: float) -> jax.Array:
    """Computes ``-(1 - sigmoid(z))^gamma log sigmoid(z)``."""
    # As an exponential of a logarithm it has a derivative where 1 - p underflows.
    return -jnp.exp(gamma * jax.nn.log_sigmoid(-z)) * jax.nn.log_sigmoid(z)


def overlap(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes the intersection over union of pairs of boxes.

    Args:
      boxes: ``[..., 4]`` corners.
      targets: ``[..., 4]`` corners; leading axes broadcast.

    Returns:
      ``[...]`` in [0, 1]; 0 where both boxes are empty.

    Raises:
      ValueError: if the last axes are not of size 4.

    >>> import jax.numpy as jnp
    >>> float(overlap(jnp.array([0.0, 0, 2, 2]), jnp.array([0.0, 0, 2, 1])))
    0.5
    """
    inter, union, _ = _areas(boxes, targets)
    return inter / jnp.where(union > 0, union, 1)


def giou(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes the generalised intersection over union of pairs of boxes.

    ``IoU - (hull - union) / hull`` with ``hull`` the area of the smallest box around
    both. Rezatofighi et al., "Generalized Intersection over Union" (arXiv:1902.09630,
    algorithm 1). It is 1 for equal boxes and goes to -1 as boxes part; the loss is
    ``iou_loss(..., kind="giou")``, one minus this value.

    Args:
      boxes: ``[..., 4]`` corners ``(left, top, right, bottom)``.
      targets: ``[..., 4]``; leading axes broadcast.

    Returns:
      ``[...]`` in [-1, 1]; 0 where both boxes are empty and at one place.

    Raises:
      ValueError: if the last axes are not of size 4.

    >>> import jax.numpy as jnp
    >>> float(giou(jnp.array([0.0, 0, 1, 1]), jnp.array([1.0, 0, 2, 1])))
    0.0
    >>> float(giou(jnp.array([0.0, 0, 1, 1]), jnp.array([3.0, 0, 4, 1])))
    -0.5
    """
    inter, union, hull = _areas(boxes, targets)
    return _giou(inter / jnp.where(union > 0, union, 1), union, hull)


def iou_loss(
    boxes: jax.Array, targets: jax.Array, *, kind: str = "giou", official: bool = False
) -> jax.Array:
    """Computes a loss of predicted boxes from their overlap with the true ones.

    - ``"iou"``: ``-log IoU`` (Yu et al., "UnitBox", arXiv:1608.01471). Without any
      overlap it stops at ``-log 1e-7`` and has no gradient, unless ``official``.
    - ``"linear_iou"``: ``1 - IoU``.
    - ``"giou"``: ``1 - GIoU`` (arXiv:1902.09630), which draws boxes together also where
      they do not meet.

    For distances to the four sides, as FCOS predicts them, pass ``(-l, -t, r, b)``.

    Args:
      boxes: predicted corners ``[..., 4]``.
      targets: true corners ``[..., 4]``; leading axes broadcast.
      kind: as above.
      official: whether 1 is added to intersection and union in the IoU, as FCOS's
        public code does. The result then depends on the unit of the boxes.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if the last axes are not of size 4, or ``kind`` is unknown.

    >>> import jax.numpy as jnp
    >>> box, half = jnp.array([0.0, 0, 2, 2]), jnp.array([0.0, 0, 2, 1])
    >>> [round(float(iou_loss(half, box, kind=kind)), 4) for kind in KINDS]
    [0.6931, 0.5, 0.5]
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}.")
    inter, union, hull = _areas(boxes, targets)
    if official:
        iou = (inter + 1) / (union + 1)
    else:
        iou = inter / jnp.where(union > 0, union, 1)
    if kind == "giou":
        return 1 - _giou(iou, union, hull)
    return 1 - iou if kind == "linear_iou" else -jnp.log(jnp.maximum(iou, _TINY))


def _giou(iou, union, hull):
    return iou - (hull - union) / jnp.where(hull > 0, hull, 1)


def _areas(boxes, targets):
    """Returns the areas of intersection, union and hull, ``[...]`` each."""
    shapes = jnp.shape(boxes), jnp.shape(targets)
    if any(shape[-1:] != (4,) for shape in shapes):
        raise ValueError(
            f"boxes have shape {shapes[0]} and targets {shapes[1]}, expected [..., 4]: "
            "left, top, right, bottom."
        )
    a, b = at_least_float32(boxes), at_least_float32(targets)
    shared = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    around = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    inter = jnp.prod(jnp.maximum(shared, 0), axis=-1)
    sizes = [jnp.prod(jnp.maximum(x[..., 2:] - x[..., :2], 0), axis=-1) for x in (a, b)]
    hull = jnp.prod(jnp.maximum(around, 0), axis=-1)
    return inter, sizes[0] + sizes[1] - inter, hull


def pyramid_distance(
    student: Mapping[str, jax.Array],
    teacher: Mapping[str, jax.Array],
    *,
    temperature: float = 3.0,
) -> jax.Array:
    """Computes the distance between two feature pyramids, summed over their levels.

    ``sum over levels of T^2 mean |s / T - f / T|``, which is ``T`` times the mean
    absolute difference. Qi et al., "Multi-Scale Aligned Distillation for Low-Resolution
    Detection" (arXiv:2109.06875, equation 6; the temperature is in the public code).

    Args:
      student: level -> ``[batch, height, width, channels]``.
      teacher: the same levels and shapes; not differentiated.
      temperature: ``T``, positive.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if levels or shapes differ.

    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3))
    >>> float(pyramid_distance({"p3": student}, {"p3": teacher})[0])
    3.0
    """
    got = {name: jnp.shape(x) for name, x in student.items()}
    expected = {name: jnp.shape(x) for name, x in teacher.items()}
    if got != expected or not got:
        raise ValueError(
            f"student has levels {got} and teacher {expected}, expected equal, at "
            "least one. Shift the student's pyramid by one level (MSAD, section 3.2)."
        )
    total = jnp.zeros(())
    for name, x in student.items():
        fused = jax.lax.stop_gradient(at_least_float32(teacher[name]))
        total = total + jnp.mean(jnp.abs(at_least_float32(x) - fused), axis=(1, 2, 3))
    return temperature * total
