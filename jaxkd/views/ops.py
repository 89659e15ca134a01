"""Operations on batches of images, on the device, from which views are made.

Random numbers are drawn for the whole batch at once: with JAX's partitionable generator
the numbers of an example depend on the key and its place in the batch, not on the
devices.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Batch


class View(NamedTuple):
    """What the network sees.

    Attributes:
      train: ``(key, batch) -> batch``; ``image`` uint8 ``[b, h, w, c]`` becomes
        float32, and fields that it does not know are left as they are.
      evaluate: the same without key and randomness.
    """

    train: Callable[[jax.Array, Batch], Batch]
    evaluate: Callable[[Batch], Batch]


def of_images(
    train: Callable[[jax.Array, jax.Array], jax.Array],
    evaluate: Callable[[jax.Array], jax.Array],
) -> View:
    """Makes a view of functions of images alone.

    Args:
      train: ``(key, uint8 [b, h, w, c]) -> float32 [b, h, w, c]``.
      evaluate: the same without key and randomness.
    """
    return View(
        lambda key, batch: batch | {"image": train(key, batch["image"])},
        lambda batch: batch | {"image": evaluate(batch["image"])},
    )


def normalize(images: jax.Array, info: Info) -> jax.Array:
    """Scales uint8 to [0, 1], subtracts the mean and divides by the deviation."""
    mean = jnp.asarray(info.mean, jnp.float32)
    std = jnp.asarray(info.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Flips each image ``[b, h, w, c]`` left to right with probability one half."""
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Moves each image by up to ``pad`` pixels along each axis, filling with zeros."""
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)


def permute_channels(key: jax.Array, images: jax.Array) -> jax.Array:
    """Puts the channels of each image ``[b, h, w, c]`` in a random order."""
    count, channels = len(images), images.shape[-1]
    order = jnp.argsort(
        jax.random.uniform(key, (count, channels), jnp.float32), axis=-1
    )
    # A product with a permutation matrix, because accelerators are slow at gathers.
    matrix = jax.nn.one_hot(order, channels, axis=1, dtype=images.dtype)
    return jnp.einsum(
        "bhwc,bcd->bhwd", images, matrix, precision=jax.lax.Precision.HIGHEST
    )


def standardize(images: jax.Array) -> jax.Array:
    """Subtracts each image's mean per channel, divides by its deviation plus 0.1."""
    mean = images.mean((1, 2), keepdims=True)
    return (images - mean) / (images.std((1, 2), keepdims=True) + 0.1)


def scale_pixels(images: jax.Array) -> jax.Array:
    """Scales uint8 pixels linearly to float32 in [-2, 2]."""
    return (images.astype(jnp.float32) / 255 - 0.5) * 4


def check_shift(shift: float, sides: Sequence[int], name: str = "shift") -> None:
    """Raises UserError for shifts by more than an image's side.

    Args:
      shift: largest one, in pixels.
      sides: of the images, likewise.
      name: of the option.
    """
    if shift > min(sides, default=shift):
        raise UserError(
            f"config.view.{name} is {shift}, but images have {min(sides)} pixels along "
            "a side. Expected no more than that; a few keep what is on the image."
        )


def draw_pose(key: jax.Array, count: int, rotation: float, zoom: float, shift: float):
    """Draws an angle in radians, a zoom factor and a shift ``(down, across)``."""
    uniform = jax.random.uniform(key, (4, count), jnp.float32, -1, 1)
    angle = jnp.deg2rad(rotation) * uniform[0]
    return angle, jnp.exp(zoom * uniform[1]), shift * uniform[2:].T


def warp(
    images: jax.Array, angle: jax.Array, zoom: jax.Array, shift: jax.Array
) -> jax.Array:
    """Rotates, zooms and shifts images about their centres, bilinearly.

    Beyond the border, the nearest pixel is repeated.

    Args:
      images: ``[b, h, w, c]``.
      angle: ``[b]``, radians; positive turns the axis across towards the axis down.
      zoom: ``[b]``, above 1 enlarges.
      shift: ``[b, 2]``, pixels (down, across).

    Returns:
      ``[b, h, w, c]``.
    """
    height, width = images.shape[1:3]
    middle = (height - 1) / 2, (width - 1) / 2

    def one(image, angle, zoom, shift):
        down = jnp.arange(height, dtype=jnp.float32)[:, None] - middle[0] - shift[0]
        across = jnp.arange(width, dtype=jnp.float32)[None, :] - middle[1] - shift[1]
        cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
        row = cos * down - sin * across + middle[0]
        column = sin * down + cos * across + middle[1]
        return bilinear(image, row, column)

    return jax.vmap(one)(images, angle, zoom, shift)


def bilinear(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Interpolates ``[h, w, c]`` at positions ``[h, w]``, clipped to the image."""
    height, width = image.shape[:2]
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    top = jnp.clip(row.astype(jnp.int32), 0, height - 2)
    left = jnp.clip(column.astype(jnp.int32), 0, width - 2)
    lower, right = (row - top)[..., None], (column - left)[..., None]
    above = image[top, left] * (1 - right) + image[top, left + 1] * right
    below = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return above * (1 - lower) + below * lower
