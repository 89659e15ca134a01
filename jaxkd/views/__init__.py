"""Views of images, on the device: augmentation and normalisation inside the step.

A view is a pure function of a key and a batch of examples, so that teacher and student
can see the very same view, and a run that resumes sees what it would have seen. It maps
the examples' fields (``image`` uint8, ``label``, ...) to what networks see, and may add
fields, such as a second view. Most change the images alone, and are made of functions
of images by ``of_images``.

Random numbers are drawn for the whole batch at once: with JAX's partitionable generator
the numbers of an example depend on the key and its place in the batch, not on the
devices.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.core import lookup
from jaxkd.core.types import Batch
from jaxkd.data import randaugment as augment
from jaxkd.data.source import Info


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


def build(name: str, info: Info, **options: Any) -> View:
    """Makes the view ``name``, one of ``VIEWS``, for a data set.

    Raises:
      UserError: if there is no such view, or it has no such option; the message lists
        those that there are.
    """
    factory = lookup.choose(name, VIEWS, what="view")
    if isinstance(factory, str):
        module, _, function = factory.partition(":")
        factory = getattr(importlib.import_module(module), function)
    return lookup.call(factory, options, what=f"view {name!r}", info=info)


def plain(info: Info) -> View:
    """Only normalises, by the mean and standard deviation of the data set."""

    def evaluate(images: jax.Array) -> jax.Array:
        return normalize(images, info)

    return of_images(lambda key, images: evaluate(images), evaluate)


def flip(info: Info) -> View:
    """Flips half of the training images left to right, for crops made on the host."""

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        return normalize(random_flip(key, images), info)

    return of_images(train, functools.partial(normalize, info=info))


def crop_flip(info: Info, *, pad: int = 4, flip: bool = True) -> View:
    """Crops training images at random after padding them with black, and flips half.

    He et al., "Deep Residual Learning", CVPR 2016, section 4.2: the usual augmentation
    of CIFAR. Black is 0 before normalisation.

    Args:
      info: of the data set.
      pad: pixels on every side.
      flip: whether to flip.
    """

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        return normalize(_crop_flip(key, images, pad, flip), info)

    return of_images(train, functools.partial(normalize, info=info))


def randaugment(
    info: Info, *, pad: int = 4, flip: bool = True, ops: int = 2, cutout: float = 0.5
) -> View:
    """Crops and flips training images as ``crop_flip``, then RandAugment and cutout.

    See ``jaxkd.data.randaugment``, which takes RGB and greyscale images.

    Args:
      info: of the data set.
      pad: pixels on every side.
      flip: whether to flip.
      ops: operations of RandAugment per image.
      cutout: largest side of the square painted over, as a share of the width; 0 paints
        none.
    """

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        move_key, op_key, cutout_key = jax.random.split(key, 3)
        images = _crop_flip(move_key, images, pad, flip)
        images = augment.randaugment(op_key, images, ops=ops)
        if cutout:
            images = augment.cutout(cutout_key, images, side=cutout)
        return normalize(images, info)

    return of_images(train, functools.partial(normalize, info=info))


def weak_strong(
    info: Info, *, pad: int = 4, flip: bool = True, ops: int = 2, cutout: float = 0.5
) -> View:
    """Makes two views of each training image: ``crop_flip``, and ``randaugment``.

    The second is the batch's field ``strong``. Each crops and flips on its own. For
    methods that compare them, such as MLKD.

    Args:
      info: of the data set.
      pad: as in both.
      flip: as in both.
      ops: as in ``randaugment``.
      cutout: as in ``randaugment``.
    """
    weak = crop_flip(info, pad=pad, flip=flip)
    strong = randaugment(info, pad=pad, flip=flip, ops=ops, cutout=cutout)

    def train(key: jax.Array, batch: Batch) -> Batch:
        second = strong.train(jax.random.fold_in(key, 1), batch)
        return weak.train(key, batch) | {"strong": second["image"]}

    return View(train, weak.evaluate)


def glyph(
    info: Info,
    *,
    rotation: float = 8.0,
    zoom: float = 0.08,
    shift: float = 1.25,
    noise: float = 0.16,
) -> View:
    """Moves, recolours, inverts and roughens training images; standardises all images.

    For characters on coloured backgrounds, whose class does not depend on colour or
    polarity. Images are scaled to ``(u / 255 - 0.5) * 4`` first, and standardised per
    image and channel at the end.

    Args:
      info: of the data set; unused, since nothing here depends on it.
      rotation: degrees, either way, uniform.
      zoom: logarithm of the zoom factor, either way, uniform.
      shift: pixels along each axis, either way, uniform.
      noise: largest standard deviation of the noise; each image draws its own.
    """
    del info

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        pose_key, colour_key, sign_key, level_key, noise_key = jax.random.split(key, 5)
        images = _scale(images)
        count = len(images)
        images = warp(images, *_draw_pose(pose_key, count, rotation, zoom, shift))
        images = permute_channels(colour_key, images)
        sign = jax.random.rademacher(sign_key, (count, 1, 1, 1), jnp.float32)
        level = jax.random.uniform(level_key, (count, 1, 1, 1), jnp.float32, 0, noise)
        grain = jax.random.normal(noise_key, images.shape, jnp.float32)
        return standardize(sign * images + level * grain)

    return of_images(train, lambda images: standardize(_scale(images)))


# Views of other files are named ``"module:function"``, since those import this one.
VIEWS: dict[str, Callable[..., View] | str] = {
    "plain": plain,
    "flip": flip,
    "crop_flip": crop_flip,
    "randaugment": randaugment,
    "weak_strong": weak_strong,
    "glyph": glyph,
    "recolour": "jaxkd.data.lowres_views:recolour",
    "low": "jaxkd.data.lowres_views:low",
    "noisy": "jaxkd.data.lowres_views:noisy",
    "mixed_low": "jaxkd.data.mixed_views:mixed_low",
    "ct": "jaxkd.data.ct_views:ct",
    "mask_dihedral": "jaxkd.data.mask_views:dihedral",
    "mask_crop_rotate": "jaxkd.data.mask_views:crop_rotate",
    "signed": "jaxkd.data.signed:signed",
}


def normalize(images: jax.Array, info: Info) -> jax.Array:
    """Scales uint8 to [0, 1], subtracts the mean and divides by the deviation."""
    mean = jnp.asarray(info.mean, jnp.float32)
    std = jnp.asarray(info.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def _crop_flip(key: jax.Array, images: jax.Array, pad: int, flip: bool) -> jax.Array:
    crop_key, flip_key = jax.random.split(key)
    images = random_crop(crop_key, images, pad)
    return random_flip(flip_key, images) if flip else images


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


def _scale(images: jax.Array) -> jax.Array:
    return (images.astype(jnp.float32) / 255 - 0.5) * 4


def _draw_pose(key: jax.Array, count: int, rotation: float, zoom: float, shift: float):
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
        return _bilinear(image, row, column)

    return jax.vmap(one)(images, angle, zoom, shift)


def _bilinear(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Interpolates ``[h, w, c]`` at positions ``[h, w]``, clipped to the image."""
    height, width = image.shape[:2]
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    top = jnp.clip(row.astype(jnp.int32), 0, height - 2)
    left = jnp.clip(column.astype(jnp.int32), 0, width - 2)
    lower, right = (row - top)[..., None], (column - left)[..., None]
    above = image[top, left] * (1 - right) + image[top, left + 1] * right
    below = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return above * (1 - lower) + below * lower
