"""Degradation of images to low resolution, on the device: blur, resize, noise, JPEG.

Which kernel shrinks an image matters: a network trained on one and tested on another
loses points. Each is defined with half-pixel centres, and named after who computes it:

- ``area``: the mean over the area that an output pixel covers, also where sides do not
  divide (OpenCV's ``INTER_AREA``).
- ``bicubic_aa``: Keys' kernel with ``a = -0.5``, widened when shrinking (Pillow,
  MATLAB, ``jax.image.resize``).
- ``bicubic_noaa``: Keys' kernel with ``a = -0.75``, not widened (torch's
  ``interpolate``, OpenCV's ``INTER_CUBIC``): it skips pixels when shrinking.
- ``bilinear_aa``: the triangle kernel, widened when shrinking (Pillow).
- ``bilinear``: the same, not widened (torch's ``interpolate``, OpenCV).
- ``nearest``: the pixel that holds the output pixel's centre (Pillow, torch's
  ``nearest-exact``).

A resize is a product with a fixed matrix along each axis, exact to float32's rounding.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.views import jpeg

Range = tuple[float, float]


class Kernel(NamedTuple):
    """An interpolation kernel.

    Attributes:
      weigh: weight at a distance, in pixels.
      radius: beyond which the weight is zero.
      widen: whether the kernel grows with the factor when shrinking; pixels beyond the
        border then do not count. Otherwise the border's pixels are repeated.
    """

    weigh: Callable[[Any], Any]
    radius: float
    widen: bool


# Products with truth values, not ``where``: for NumPy's and for traced arrays alike.
def _cubic(a: float) -> Callable[[Any], Any]:
    def weigh(x):
        x = abs(x)
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        return near * (x < 1) + far * ((x >= 1) & (x < 2))

    return weigh


def _triangle(x):
    return (1 - abs(x)) * (abs(x) < 1)


KERNELS: dict[str, Kernel | None] = {
    "area": None,
    "bicubic_aa": Kernel(_cubic(-0.5), 2, True),
    "bicubic_noaa": Kernel(_cubic(-0.75), 2, False),
    "bilinear_aa": Kernel(_triangle, 1, True),
    "bilinear": Kernel(_triangle, 1, False),
    "nearest": None,
}


@functools.cache
def weights(size: int, side: int, kernel: str) -> np.ndarray:
    """Returns the matrix ``[side, size]`` that resizes one axis; rows sum to 1.

    Raises:
      UserError: if there is no such kernel, or a side is not positive.
    """
    chosen = lookup.choose(kernel, KERNELS, what="kernel")
    if min(size, side) < 1:
        raise UserError(f"Cannot resize {size} pixels to {side}: expected 1 or more.")
    if kernel == "area":
        return _overlap(size, side)
    centres = (np.arange(side) + 0.5) * size / side - 0.5
    if chosen is None:
        return np.eye(size)[(2 * np.arange(side) + 1) * size // (2 * side)]
    return _interpolate(chosen, centres, size, max(size / side, 1.0))


def _overlap(size: int, side: int) -> np.ndarray:
    """Weighs each pixel by the length of it that an output pixel covers."""
    edges = np.arange(side + 1) * size / side
    pixels = np.arange(size)
    upper = np.minimum(edges[1:, None], pixels + 1)
    lower = np.maximum(edges[:-1, None], pixels)
    return np.maximum(upper - lower, 0) * side / size


def _interpolate(kernel: Kernel, centres, size: int, factor: float) -> np.ndarray:
    factor = factor if kernel.widen else 1.0
    reach = int(np.ceil(kernel.radius * factor)) + 1
    taps = np.floor(centres)[:, None].astype(int) + np.arange(-reach, reach + 1)
    values = kernel.weigh((taps - centres[:, None]) / factor)
    if kernel.widen:
        values = np.where((taps >= 0) & (taps < size), values, 0)
    matrix = np.zeros((len(centres), size))
    rows = np.broadcast_to(np.arange(len(centres))[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, size - 1)), values)
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize(images: jax.Array, side: int | tuple[int, int], kernel: str) -> jax.Array:
    """Resizes ``[..., height, width, channels]`` to ``side`` (rows, columns).

    Args:
      images: floating.
      side: of the result; one number for a square.
      kernel: one of ``KERNELS``.

    Raises:
      UserError: if there is no such kernel, or a side is not positive.
    """
    rows, columns = (side, side) if isinstance(side, int) else side
    height, width = images.shape[-3:-1]
    for axis, (old, new) in ((-3, (height, rows)), (-2, (width, columns))):
        if old == new:
            continue
        matrix = jnp.asarray(weights(old, new, kernel), images.dtype)
        moved = jnp.moveaxis(images, axis, -1)
        moved = jnp.matmul(moved, matrix.T, precision=jax.lax.Precision.HIGHEST)
        images = jnp.moveaxis(moved, -1, axis)
    return images


def blur(images: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Blurs each image by a Gaussian of its own; beyond the border, pixels repeat.

    Args:
      images: ``[b, h, w, c]``.
      sigma: ``[b]``, in pixels; 0 changes nothing.
      radius: in pixels, at which the Gaussian is cut off.
    """
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    # As sigma goes to 0 all weight goes to the middle.
    sigma = jnp.maximum(sigma, 1e-3)[:, None]
    taps = jax.nn.softmax(-0.5 * (offsets / sigma) ** 2, axis=1)
    for axis in (1, 2):
        pad = [(0, 0)] * images.ndim
        pad[axis] = (radius, radius)
        wide = jnp.pad(images, pad, mode="edge")
        size = images.shape[axis]
        parts = (
            jax.lax.slice_in_dim(wide, at, at + size, axis=axis)
            * taps[:, at, None, None, None]
            for at in range(2 * radius + 1)
        )
        images = functools.reduce(jnp.add, parts)
    return images


class Degradation(NamedTuple):
    """What happens to an image on its way to low resolution, in this order.

    Attributes:
      side: of the small image, in pixels.
      kernel: that shrinks it, one of ``KERNELS``.
      up_to: side that it is enlarged to again; None leaves it small.
      up_kernel: that enlarges it.
      blur: range of the Gaussian's standard deviation before shrinking, in pixels of
        the large image, uniform for each image.
      noise: range of the standard deviation of noise after shrinking, in units of
        ``levels``' range, likewise.
      quality: range of JPEG's quality after that, whole numbers; None leaves it out.
      levels: values of black and white, which noise and JPEG refer to.
    """

    side: int
    kernel: str = "area"
    up_to: int | None = None
    up_kernel: str = "bicubic_aa"
    blur: Range = (0.0, 0.0)
    noise: Range = (0.0, 0.0)
    quality: tuple[int, int] | None = None
    levels: Range = (0.0, 1.0)


def degrade(key: jax.Array, images: jax.Array, how: Degradation) -> jax.Array:
    """Degrades images ``[b, h, w, c]``; a pure function of the key and the images.

    Raises:
      UserError: if there is no such kernel, an image is smaller than ``side``, or a
        range is out of its bounds.
    """
    check(how, images.shape[-3:-1])
    keys = jax.random.split(key, 4)
    count = len(images)
    if how.blur[1]:
        sigma = _uniform(keys[0], count, how.blur)
        images = blur(images, sigma, int(np.ceil(4 * how.blur[1])))
    images = resize(images, how.side, how.kernel)
    low, high = how.levels
    if how.noise[1]:
        level = _uniform(keys[1], count, how.noise)[:, None, None, None] * (high - low)
        images = images + level * jax.random.normal(keys[2], images.shape)
    if how.quality is not None:
        quality = jax.random.randint(
            keys[3], (count,), how.quality[0], how.quality[1] + 1
        )
        images = jpeg.compress((images - low) / (high - low), quality)
        images = low + (high - low) * images
    if how.up_to is not None:
        images = resize(images, how.up_to, how.up_kernel)
    return images


def check(how: Degradation, sides: tuple[int, ...]) -> None:
    """Checks a degradation for images of some height and width.

    Raises:
      UserError: see ``degrade``.
    """
    for kernel in (how.kernel, how.up_kernel):
        lookup.choose(kernel, KERNELS, what="kernel")
    if not 1 <= how.side <= min(sides):
        raise UserError(
            f"Images of {' x '.join(map(str, sides))} pixels cannot be degraded to a "
            f"side of {how.side}: expected a side from 1 to {min(sides)}. Choose a "
            "smaller side, or larger images."
        )
    if how.up_to is not None and how.up_to < how.side:
        raise UserError(
            f"up_to is {how.up_to}, expected at least the side, {how.side}, or None."
        )
    check_ranges(blur=how.blur, noise=how.noise)
    if how.quality is not None and not 1 <= how.quality[0] <= how.quality[1] <= 100:
        raise UserError(f"quality is {how.quality}, expected 1 <= low <= high <= 100.")


def check_ranges(**ranges: Range) -> None:
    """Raises UserError for ranges, by name, unless ``0 <= low <= high``."""
    for name, (low, high) in ranges.items():
        if not 0 <= low <= high:
            raise UserError(f"{name} is {low, high}, expected 0 <= low <= high.")


def _uniform(key: jax.Array, count: int, limits: Range) -> jax.Array:
    return jax.random.uniform(key, (count,), jnp.float32, limits[0], limits[1])
