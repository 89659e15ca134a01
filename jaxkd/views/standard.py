"""Views of labelled photographs and characters: crops, flips, colour, RandAugment."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Range
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import randaugment as augment
from jaxkd.views.ops import (
    View,
    check_shift,
    draw_pose,
    normalize,
    of_images,
    permute_channels,
    random_crop,
    random_flip,
    scale_pixels,
    standardize,
    warp,
)


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

    See ``jaxkd.views.randaugment``, which takes RGB and greyscale images.

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
    noise: Annotated[float, Range(0, 4)] = 0.16,
) -> View:
    """Moves, recolours, inverts and roughens training images; standardises all images.

    For characters on coloured backgrounds, whose class does not depend on colour or
    polarity. Images are scaled to ``(u / 255 - 0.5) * 4`` first, and standardised per
    image and channel at the end.

    Args:
      info: of the data set.
      rotation: degrees, either way, uniform.
      zoom: logarithm of the zoom factor, either way, uniform.
      shift: pixels along each axis, either way, uniform; at most the images' side.
      noise: largest standard deviation of the noise; each image draws its own. Black
        and white are 4 apart.

    Raises:
      UserError: if an option is out of its range.
    """
    check_shift(shift, info.image_shape[:2])

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        pose_key, colour_key, sign_key, level_key, noise_key = jax.random.split(key, 5)
        images = scale_pixels(images)
        count = len(images)
        images = warp(images, *draw_pose(pose_key, count, rotation, zoom, shift))
        images = permute_channels(colour_key, images)
        sign = jax.random.rademacher(sign_key, (count, 1, 1, 1), jnp.float32)
        level = jax.random.uniform(level_key, (count, 1, 1, 1), jnp.float32, 0, noise)
        grain = jax.random.normal(noise_key, images.shape, jnp.float32)
        return standardize(sign * images + level * grain)

    return of_images(train, lambda images: standardize(scale_pixels(images)))


def _crop_flip(key: jax.Array, images: jax.Array, pad: int, flip: bool) -> jax.Array:
    crop_key, flip_key = jax.random.split(key)
    if pad > min(images.shape[1:3]):
        raise UserError(
            f"config.view.pad is {pad}, more than the images' side, "
            f"{min(images.shape[1:3])}: some crops would be black. Choose fewer pixels."
        )
    images = random_crop(crop_key, images, pad)
    return random_flip(flip_key, images) if flip else images
