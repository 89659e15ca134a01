"""Views that move an image and its ``target_mask`` together, on the device.

Masks come as uint8 ``[b, h, w]`` and leave as float32 in [0, 1]; those that are
resampled become soft, and stay so.
"""

import jax
import jax.numpy as jnp

from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import ops

# Mean and deviation of the official code, which differ between training and test.
OFFICIAL_TRAIN = ((0.448, 0.433, 0.397), (0.230, 0.226, 0.235))
OFFICIAL_TEST = ((0.485, 0.430, 0.387), (0.239, 0.225, 0.230))

LARGEST_MARGIN = 40


def dihedral(info: Info, *, official_statistics: bool = False) -> ops.View:
    """Flips and turns training images by right angles: nothing is resampled.

    Resampling leaves traces over all of an image, and wipes out those of inpainting.

    Args:
      info: of the data set.
      official_statistics: whether to normalise as the official code does, by one mean
        and deviation in training and another in evaluation.
    """
    before, evaluate = _normalizers(info, official_statistics)

    def train(key: jax.Array, batch: Batch) -> Batch:
        images, masks = turn(key, batch["image"], batch["target_mask"])
        return batch | {"image": before(images), "target_mask": _soft(masks)}

    return ops.View(train, evaluate)


def crop_rotate(
    info: Info,
    *,
    margin: int = LARGEST_MARGIN,
    rotate: float = 0.4,
    official_statistics: bool = False,
) -> ops.View:
    """Flips, crops about the centre, rotates and enlarges training images.

    The official augmentation (arXiv:2408.02191): a flip with probability one half; a
    crop by 1 to ``margin`` pixels in each direction; with probability ``rotate`` a turn
    by -90 to 89 degrees about the centre, black beyond the border; all enlarged to the
    old size. Official images are interpolated twice, first bicubically; here once,
    bilinearly.

    Args:
      info: of the data set.
      margin: most pixels that a crop takes off; at most an eighth of the side.
      rotate: probability of a turn.
      official_statistics: as in ``dihedral``.
    """
    before, evaluate = _normalizers(info, official_statistics)

    def train(key: jax.Array, batch: Batch) -> Batch:
        flip_key, pose_key = jax.random.split(key)
        both = jnp.concatenate(
            [
                batch["image"].astype(jnp.float32),
                batch["target_mask"][..., None].astype(jnp.float32),
            ],
            axis=-1,
        )
        both = ops.random_flip(flip_key, both)
        pose = draw_pose(pose_key, both.shape, margin, rotate)
        both = jax.vmap(_resample)(both, *pose)
        images, masks = both[..., :-1], both[..., -1]
        return batch | {"image": before(images), "target_mask": _soft(masks)}

    return ops.View(train, evaluate)


def turn(
    key: jax.Array, images: jax.Array, masks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Flips images and masks alike, and turns square ones by right angles.

    Args:
      key: of the draw.
      images: ``[b, h, w, c]``.
      masks: ``[b, h, w]``.
    """
    down, across, swap = jax.random.bernoulli(key, 0.5, (3, len(images)))

    def one(x, down, across, swap):
        x = jnp.where(down, x[::-1], x)
        x = jnp.where(across, x[:, ::-1], x)
        if x.shape[0] == x.shape[1]:
            x = jnp.where(swap, jnp.swapaxes(x, 0, 1), x)
        return x

    return tuple(jax.vmap(one)(x, down, across, swap) for x in (images, masks))


def _normalizers(info: Info, official: bool):
    """Returns functions of training images, and of a batch in evaluation."""
    train, test = info, info
    if official:
        train, test = (
            info._replace(mean=mean, std=std)
            for mean, std in (OFFICIAL_TRAIN, OFFICIAL_TEST)
        )

    def evaluate(batch: Batch) -> Batch:
        changed = {"image": ops.normalize(batch["image"], test)}
        if "target_mask" in batch:
            changed["target_mask"] = _soft(batch["target_mask"])
        return batch | changed

    return lambda images: ops.normalize(images, train), evaluate


def _soft(masks: jax.Array) -> jax.Array:
    return masks.astype(jnp.float32) / 255


def draw_pose(key: jax.Array, shape, margin: int, rotate: float):
    """Draws, for each image, the cropped height and width and an angle in radians."""
    size_key, turn_key, angle_key = jax.random.split(key, 3)
    count, sides = shape[0], jnp.asarray(shape[1:3])
    most = jnp.maximum(jnp.minimum(margin, sides // 8), 1)
    cut = jax.random.randint(size_key, (count, 2), 1, most + 1)
    turned = jax.random.bernoulli(turn_key, rotate, (count,))
    degrees = jax.random.randint(angle_key, (count,), -90, 90)
    return sides - cut, jnp.where(turned, jnp.deg2rad(degrees.astype(jnp.float32)), 0)


def _resample(image: jax.Array, crop: jax.Array, angle: jax.Array) -> jax.Array:
    """Samples ``[h, w, c]`` where a turned, centred crop shows it at the old size."""
    height, width = image.shape[:2]
    offset = (jnp.asarray([height, width]) - crop) // 2
    # Positions in the crop, about its centre, with half-pixel centres.
    down = (jnp.arange(height) + 0.5) * crop[0] / height - crop[0] / 2
    across = (jnp.arange(width) + 0.5) * crop[1] / width - crop[1] / 2
    down, across = down[:, None], across[None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    row = cos * down - sin * across + (crop[0] - 1) / 2
    column = sin * down + cos * across + (crop[1] - 1) / 2
    inside = (abs(row - (crop[0] - 1) / 2) <= crop[0] / 2) & (
        abs(column - (crop[1] - 1) / 2) <= crop[1] / 2
    )
    sampled = ops.bilinear(
        image,
        jnp.clip(row, 0, crop[0] - 1) + offset[0],
        jnp.clip(column, 0, crop[1] - 1) + offset[1],
    )
    return jnp.where(inside[..., None], sampled, 0)
