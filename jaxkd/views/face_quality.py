"""Changes of quality that leave a face what it is, for detectors of forgery.

With some probability an image is given one of five changes at level 1 or 2: grey blocks
over it, colour noise, Gaussian blur, coarse pixels, JPEG. The augmentation of the code
of arXiv:2405.08487, on the device. There the number of blocks is that of whole 256
pixels of the side, none in small images; here it goes with the area.
"""

import functools

import jax
import jax.numpy as jnp

from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import jpeg, ops

CHANGES = ("blocks", "noise", "blur", "pixels", "jpeg")
BLOCK = 8  # pixels
BLOCKS = (16, 32)  # in 256 x 256 pixels
NOISE = (0.001, 0.002)  # variance, of values in [0, 1]
KERNELS = (7, 9)  # taps of the blur, whose deviation is a sixth of them
COARSENESS = (2, 3)
QUALITIES = (70, 80, 90)


def quality(info: Info, *, probability: float = 0.3, perturb: float = 0.0) -> ops.View:
    """Changes the quality of training images, and of test images if asked to.

    Args:
      info: of the data set.
      probability: of a change, in training.
      perturb: of a change in evaluation. In the published test of single images it is
        1, by a slip: each is changed.
    """

    def train(key: jax.Array, batch: Batch) -> Batch:
        images = batch["image"].astype(jnp.float32) / 255
        images = degrade(key, images, probability)
        return batch | {"image": ops.normalize(255 * images, info)}

    def evaluate(batch: Batch) -> Batch:
        images = batch["image"].astype(jnp.float32) / 255
        if perturb:
            # The evaluation has no key: the images themselves are the seed, so that
            # every student and every evaluation sees the same changes.
            seed = jnp.sum(batch["image"].astype(jnp.uint32))
            images = degrade(jax.random.key(seed), images, perturb)
        return batch | {"image": ops.normalize(255 * images, info)}

    return ops.View(train, evaluate)


def degrade(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Gives some images one of ``CHANGES``, at one of two levels.

    Args:
      key: of the draw.
      images: ``[batch, height, width, 3]`` in [0, 1].
      probability: that an image is changed.

    Returns:
      As ``images``, within [0, 1].
    """
    count = len(images)
    choice_key, level_key, change_key = jax.random.split(key, 3)
    kind_key, quality_key, chance_key = jax.random.split(choice_key, 3)
    kinds = jax.random.randint(kind_key, (count,), 0, len(CHANGES))
    levels = jax.random.randint(level_key, (count,), 0, 2)
    chosen = jax.random.bernoulli(chance_key, probability, (count,))
    qualities = jax.random.choice(quality_key, jnp.array(QUALITIES), (count,))
    keys = jax.random.split(change_key, count)
    changed = jnp.stack(
        [
            jax.vmap(_with_blocks)(keys, images, levels),
            jax.vmap(_with_noise)(keys, images, levels),
            jax.vmap(_blurred)(images, levels),
            jax.vmap(_pixelated)(images, levels),
            jpeg.compress(images, qualities),
        ]
    )
    changed = changed[kinds, jnp.arange(count)]
    return jnp.clip(jnp.where(chosen[:, None, None, None], changed, images), 0, 1)


def _with_blocks(key, image, level):
    """Lays grey blocks over an image, in number by its area."""
    height, width = image.shape[:2]
    counts = [max(1, round(n * height * width / 256**2)) for n in BLOCKS]
    corners = jax.random.uniform(key, (max(counts), 2))
    size = jnp.array([height - BLOCK + 1, width - BLOCK + 1])
    top, left = jnp.floor(corners * jnp.maximum(size, 1)).T
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (
        (rows >= top[:, None, None])
        & (rows < top[:, None, None] + BLOCK)
        & (columns >= left[:, None, None])
        & (columns < left[:, None, None] + BLOCK)
    )
    used = jnp.arange(max(counts)) < jnp.array(counts)[level]
    cover = jnp.any(inside & used[:, None, None], axis=0)
    return jnp.where(cover[..., None], 0.5, image)


def _with_noise(key, image, level):
    """Adds noise in YCbCr, of equal variance in brightness and both colours."""
    noise = jax.random.normal(key, image.shape)
    y, cb, cr = jnp.moveaxis(noise * jnp.sqrt(jnp.array(NOISE)[level]), -1, 0)
    rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    return image + jnp.stack(rgb, axis=-1)


def _blurred(image, level):
    sizes = jnp.array(KERNELS)[level]
    reach = max(KERNELS) // 2
    taps = jnp.arange(-reach, reach + 1)
    weights = jnp.exp(-0.5 * (taps / (sizes / 6)) ** 2)
    weights = jnp.where(jnp.abs(taps) <= sizes // 2, weights, 0)
    weights = weights / weights.sum()
    for axis in (0, 1):
        margins = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(image, margins, mode="edge")
        shifted = functools.partial(jax.lax.slice_in_dim, padded, axis=axis)
        length = image.shape[axis]
        image = sum(w * shifted(i, i + length) for i, w in enumerate(weights))
    return image


def _pixelated(image, level):
    def coarse(factor):
        height, width = (max(1, n // factor) for n in image.shape[:2])
        small = jax.image.resize(image, (height, width, image.shape[2]), "linear")
        return jax.image.resize(small, image.shape, "nearest")

    return jnp.stack([coarse(factor) for factor in COARSENESS])[level]
