"""A view of mixed resolutions: each image degraded in its own way, and enlarged again.

For networks that must recognise images of any resolution (arXiv:2303.08665): every
image of a batch draws its own side, kernel, blur and noise. Shrinking and enlarging are
products with matrices, so that images of unlike sides go through one program: the
matrices are padded with zeros to the full side, and each image picks its own.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import views
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Interval, Range
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import degrade, ops

ENLARGE = "bicubic_aa"


def mixed_low(
    info: Info,
    *,
    base: Mapping[str, Any],
    sides: tuple[int, ...],
    kernels: tuple[str, ...] = ("area", "bicubic_aa", "bilinear_aa", "nearest"),
    blur: Interval = (0.0, 0.0),
    noise: Annotated[Interval, Range()] = (0.0, 0.0),
    probability: float = 0.5,
    evaluate_at: int | None = None,
    field: str = "low",
) -> ops.View:
    """Adds degraded copies of the images to another view, as the batch's ``low``.

    Blur, shrinking to a side, noise, enlarging by ``bicubic_aa`` to the image's own
    side; no JPEG. In evaluation all images are shrunk by ``area`` alone.

    Args:
      info: of the data set, whose images are square.
      base: the other view: its ``name`` and options.
      sides: one of which each training image draws; the full side leaves it as it is.
      kernels: likewise, each of ``degrade.KERNELS``.
      blur: range of the Gaussian's standard deviation, in pixels of the large image.
      noise: range of the noise's, in units of the image as the other view leaves it.
      probability: of blur, and of noise.
      evaluate_at: side in evaluation; the smallest if not given.
      field: where the copy goes.

    Raises:
      UserError: if an option is out of its range.
    """
    options = dict(base)
    other = views.build(str(options.pop("name", "")), info, **options)
    full = _check(info, sides, kernels, probability)
    last = min(sides) if evaluate_at is None else evaluate_at
    if not 1 <= last <= full:
        raise UserError(f"evaluate_at is {last}, expected 1 to {full}.")
    down, up = (jnp.asarray(x) for x in bank(full, tuple(sides), tuple(kernels)))

    def train(key: jax.Array, batch: Batch) -> Batch:
        batch = other.train(key, batch)
        keys = jax.random.split(jax.random.fold_in(key, 3), 4)
        images, count = batch["image"], len(batch["image"])
        if blur[1]:
            sigma = _sometimes(keys[0], count, blur, probability)
            images = degrade.blur(images, sigma, int(np.ceil(4 * blur[1])))
        chosen = jax.random.randint(keys[1], (count,), 0, len(down))
        images = _apply(down[chosen], images)
        if noise[1]:
            level = _sometimes(keys[2], count, noise, probability)
            grain = jax.random.normal(keys[3], images.shape, jnp.float32)
            images = images + level[:, None, None, None] * grain
        return batch | {field: _apply(up[chosen], images)}

    def evaluate(batch: Batch) -> Batch:
        batch = other.evaluate(batch)
        return batch | {field: reduced(batch["image"], last)}

    return ops.View(train, evaluate)


def _sometimes(key: jax.Array, count: int, limits, probability: float) -> jax.Array:
    """Draws values in a range, or 0."""
    value_key, key = jax.random.split(key)
    value = jax.random.uniform(value_key, (count,), jnp.float32, *limits)
    return value * jax.random.bernoulli(key, probability, (count,))


def reduced(images: jax.Array, side: int) -> jax.Array:
    """Shrinks images by ``area`` to a side, and enlarges them to their own again.

    Args:
      images: ``[b, size, size, c]``.
      side: from 1 to ``size``.
    """
    size = images.shape[-2]
    return degrade.resize(degrade.resize(images, side, "area"), size, ENLARGE)


def bank(
    size: int, sides: tuple[int, ...], kernels: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Makes the matrices of every side and kernel, padded with zeros.

    Returns:
      Those that shrink and those that enlarge, both float32
      ``[sides * kernels, size, size]``. Columns of the latter beyond the side are zero,
      so that whatever is added between the two beyond it is lost.
    """
    down, up = [], []
    for side in sides:
        for kernel in kernels:
            shrink, enlarge = np.zeros((2, size, size), np.float32)
            # At the full side nothing is resampled, whatever the kernel.
            same = side == size
            shrink[:side] = (
                np.eye(size) if same else degrade.weights(size, side, kernel)
            )
            enlarge[:, :side] = (
                np.eye(size) if same else degrade.weights(side, size, ENLARGE)
            )
            down.append(shrink)
            up.append(enlarge)
    return np.stack(down), np.stack(up)


def _apply(matrices: jax.Array, images: jax.Array) -> jax.Array:
    """Multiplies rows and columns of each image by its own matrix."""
    return jnp.einsum(
        "boh,bpw,bhwc->bopc",
        matrices,
        matrices,
        images,
        precision=jax.lax.Precision.HIGHEST,
    )


def _check(info: Info, sides, kernels, probability: float) -> int:
    height, width = info.image_shape[-3:-1]
    if height != width:
        raise UserError(f"Images have {height} x {width} pixels, expected square ones.")
    if not sides or min(sides) < 1 or max(sides) > height:
        raise UserError(
            f"sides is {tuple(sides)}, expected some from 1 to {height}, the images'."
        )
    if not kernels:
        raise UserError("kernels is empty, expected at least one.")
    for kernel in kernels:
        lookup.choose(kernel, degrade.KERNELS, what="kernel")
    if not 0 <= probability <= 1:
        raise UserError(f"probability is {probability}, expected from 0 to 1.")
    return height
