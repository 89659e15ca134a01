"""Images of random sizes in arrays of one shape, so that a step compiles once.

An image fills the upper left part of its canvas; beyond its ``size`` (height, width), a
traced pair, the border's pixels are repeated, which is what filters at the border and
JPEG's last blocks need.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import lookup
from jaxkd.views import degrade


def weights(
    before: jax.Array, after: jax.Array, canvas: tuple[int, int], kernel: str
) -> jax.Array:
    """Makes the matrix that resizes one axis from a size to another, both traced.

    Within the sizes it is ``degrade.weights(before, after, kernel)``; the rows beyond
    repeat the last.

    Args:
      before: pixels, at most ``canvas[0]``; those beyond must repeat the border.
      after: pixels, at most ``canvas[1]``.
      canvas: sides of both arrays.
      kernel: one of ``degrade.KERNELS``.

    Returns:
      ``[canvas[1], canvas[0]]``, whose rows sum to 1.

    Raises:
      UserError: if there is no such kernel.
    """
    chosen = lookup.choose(kernel, degrade.KERNELS, what="kernel")
    ratio = before / after
    row = jnp.minimum(np.arange(canvas[1]), after - 1)[:, None]
    if kernel == "nearest":
        picked = (2 * row + 1) * before // (2 * after)
        return (picked == np.arange(canvas[0])).astype(jnp.float32)
    if chosen is None:  # the area that a pixel covers
        place = np.arange(canvas[0])
        upper = jnp.minimum((row + 1) * ratio, place + 1)
        lower = jnp.maximum(row * ratio, place)
        return _normalised(jnp.maximum(upper - lower, 0))
    centre = (row + 0.5) * ratio - 0.5
    reach = 0 if chosen.widen else int(np.ceil(chosen.radius))
    place = np.arange(-reach, canvas[0] + reach)
    factor = jnp.maximum(ratio, 1) if chosen.widen else 1.0
    found = chosen.weigh((place - centre) / factor)
    if chosen.widen:
        return _normalised(found * (place < before))
    # Taps beyond the canvas fall on its border.
    inside = found[:, reach : reach + canvas[0]]
    inside = inside.at[:, 0].add(found[:, :reach].sum(axis=1))
    return _normalised(inside.at[:, -1].add(found[:, reach + canvas[0] :].sum(axis=1)))


def _normalised(matrix: jax.Array) -> jax.Array:
    return matrix / jnp.sum(matrix, axis=1, keepdims=True)


def resize(
    image: jax.Array,
    before: jax.Array,
    after: jax.Array,
    canvas: tuple[int, int],
    kernels: tuple[str, ...],
    choice: jax.Array,
) -> jax.Array:
    """Resizes an image from one size to another by one of several kernels.

    Args:
      image: ``[h, w, c]``, of the size ``before`` in its canvas.
      before: ``[2]``, height and width.
      after: likewise, at most ``canvas``.
      canvas: height and width of the result's array.
      kernels: of ``degrade.KERNELS``.
      choice: which of them.

    Returns:
      ``[*canvas, c]``.
    """
    for axis in (0, 1):
        shape = (image.shape[axis], canvas[axis])
        each = [weights(before[axis], after[axis], shape, name) for name in kernels]
        matrix = jnp.stack(each)[choice]
        moved = jnp.moveaxis(image, axis, 0)
        moved = jnp.tensordot(matrix, moved, 1, precision=jax.lax.Precision.HIGHEST)
        image = jnp.moveaxis(moved, 0, axis)
    return image


def extend(image: jax.Array, size: jax.Array) -> jax.Array:
    """Repeats the border of an image through the rest of its canvas ``[h, w, c]``."""
    for axis in (0, 1):
        place = jnp.minimum(np.arange(image.shape[axis]), size[axis] - 1)
        image = jnp.take(image, place, axis=axis)
    return image
