"""Losses of DeFI-Net between maps of logits and masks (arXiv:2408.02191).

Pixels near the boundary of a mask weigh up to six times as much as others. All losses
take maps ``[batch, height, width]`` and return ``[batch]``; they compute in at least
float32 and do not differentiate the masks.

The official code hands torch an outdated argument by which the cross entropy is
averaged before it is weighted, so that the weights cancel and only the weighted IoU
keeps them. Here they count; ``official=True`` leaves them out as there.
"""

import jax
import jax.numpy as jnp

WINDOW = 31
RING = 5
_EDGE_FACTOR = 5.0


def structure_loss(
    logits: jax.Array, masks: jax.Array, *, official: bool = False
) -> jax.Array:
    """Computes weighted cross entropy plus one minus a weighted, soft IoU.

    Wei et al., "F3Net" (arXiv:1911.11445, section 3.4), with one added to both sides of
    the IoU.

    Args:
      logits: ``[batch, height, width]``.
      masks: in [0, 1], of the same shape; soft values are used as they are, and others
        make their image NaN.
      official: whether the cross entropy is unweighted; see above.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    logits, masks = _prepare(logits, masks)
    weights = boundary_weights(masks)
    probabilities = jax.nn.sigmoid(logits)
    inside = jnp.sum(probabilities * masks * weights, axis=(-2, -1))
    both = jnp.sum((probabilities + masks) * weights, axis=(-2, -1))
    iou = (inside + 1) / (both - inside + 1)
    return _cross_entropy(logits, masks, weights, official) + 1 - iou


def boundary_loss(
    logits: jax.Array, edges: jax.Array, *, official: bool = False
) -> jax.Array:
    """Computes the weighted cross entropy of edge logits.

    Args:
      logits: ``[batch, height, width]``.
      edges: in [0, 1], such as ``edge_ring`` returns.
      official: whether it is unweighted; see above.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    logits, edges = _prepare(logits, edges)
    return _cross_entropy(logits, edges, boundary_weights(edges), official)


def boundary_weights(masks: jax.Array) -> jax.Array:
    """Returns ``1 + 5 |mean over 31x31 pixels - mask|``, in [1, 6].

    Beyond the border of the image the mask is 0, and such pixels count in the mean.

    Args:
      masks: ``[..., height, width]``.
    """
    mean = masks
    for axis in (masks.ndim - 2, masks.ndim - 1):
        mean = _slide(mean, 0.0, jax.lax.add, WINDOW, (axis,))
    mean = mean / WINDOW**2
    return 1 + _EDGE_FACTOR * jnp.abs(mean - masks)


def edge_ring(masks: jax.Array) -> jax.Array:
    """Returns the pixels of a mask that are within two of its outside, as 0 and 1.

    That is the mask minus its erosion by a square of 5x5 pixels. The border of the
    image is no boundary: what lies beyond counts as inside. A pixel belongs to the mask
    where it exceeds one half.

    Args:
      masks: in [0, 1], ``[..., height, width]``.
    """
    inside = (jnp.asarray(masks) > 0.5).astype(jnp.float32)
    axes = (inside.ndim - 2, inside.ndim - 1)
    return inside - _slide(inside, jnp.inf, jax.lax.min, RING, axes)


def _slide(x: jax.Array, fill: float, reduce, size: int, axes) -> jax.Array:
    """Reduces over a centred window along some axes, keeping the shape."""
    window = [size if axis in axes else 1 for axis in range(x.ndim)]
    padding = [(size // 2,) * 2 if axis in axes else (0, 0) for axis in range(x.ndim)]
    strides = (1,) * x.ndim
    start = jnp.asarray(fill, x.dtype)
    return jax.lax.reduce_window(x, start, reduce, window, strides, padding)


def _cross_entropy(logits, masks, weights, official: bool) -> jax.Array:
    """Averages the binary cross entropy of each image."""
    losses = jax.nn.softplus(logits) - logits * masks
    if official:
        return jnp.mean(losses, axis=(-2, -1))
    axes = (-2, -1)
    return jnp.sum(weights * losses, axis=axes) / jnp.sum(weights, axis=axes)


def _prepare(logits, masks) -> tuple[jax.Array, jax.Array]:
    logits, masks = jnp.asarray(logits), jnp.asarray(masks)
    if logits.ndim != 3 or logits.shape != masks.shape:
        raise ValueError(
            f"logits have shape {logits.shape} and masks {masks.shape}, expected both "
            "[batch, height, width]. Drop an axis of one channel."
        )
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    masks = jax.lax.stop_gradient(masks.astype(dtype))
    # A mask of 0 and 255 has a loss without bounds; resized ones are off by rounding.
    in_range = jnp.abs(masks - 0.5) <= 0.501
    return logits.astype(dtype), jnp.where(in_range, masks, jnp.nan)
