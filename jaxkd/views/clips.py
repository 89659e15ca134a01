"""Views of talking-face clips, on the device: one change a clip, the same everywhere.

Film, sound and mask become the field ``clip``, which the networks of clips read.
"""

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.models.talknet.packed import pack
from jaxkd.views.ops import View, warp

# What is packed, and no longer needed beside it.
PACKED = ("video", "mfcc")
NONE, FLIP, CROP, ROTATE = range(4)


def clips(
    info: Info,
    *,
    augment: bool = True,
    smallest_crop: float = 0.7,
    rotation: float = 15.0,
    cut_to_shortest: bool = False,
) -> View:
    """Packs clips, and changes the pictures of training clips as published.

    With equal probability a clip is left as it is, flipped left to right, cut to a
    square of side U(0.7, 1) at a random place and resized back, or rotated about its
    centre by U(-15, 15) degrees; all frames alike. Sound is left as it is.

    Args:
      info: of the data set; unused.
      augment: whether training clips are changed.
      smallest_crop: side of the smallest cut, a fraction.
      rotation: degrees, either way.
      cut_to_shortest: whether training clips end where the shortest of their batch
        does, as the official loader cuts them. The arrays keep their shape; networks
        and losses treat what is cut as they treat padding.
    """
    del info

    def train(key: jax.Array, batch: Batch) -> Batch:
        if augment:
            moved = change(key, batch["video"], smallest_crop, rotation)
            batch = batch | {"video": moved}
        if cut_to_shortest:
            batch = batch | {"present": shorten(batch["present"])}
        return evaluate(batch)

    def evaluate(batch: Batch) -> Batch:
        clip = pack(batch["video"], batch["mfcc"], batch["present"])
        kept = {name: field for name, field in batch.items() if name not in PACKED}
        return kept | {"clip": clip}

    return View(train, evaluate)


def shorten(present: jax.Array) -> jax.Array:
    """Cuts the clips of a batch to the length of the shortest.

    Args:
      present: ``[batch, time]``, frames that are there; the first of each clip.

    Returns:
      The same, of frames that are there in every clip.

    Raises:
      UserError: for a batch of one clip, where there is nothing to cut by.
    """
    if present.shape[0] < 2:
        raise UserError(
            "config.view.cut_to_shortest got a batch of 1 clip, expected 2 or more. "
            "Raise config.batch_size; with config.targets.visits every clip is seen "
            "alone, so leave one of the two out."
        )
    return jnp.broadcast_to(jnp.all(present, axis=0), present.shape)


def change(
    key: jax.Array, video: jax.Array, smallest_crop: float, rotation: float
) -> jax.Array:
    """Applies one of the four changes to each clip ``[batch, time, h, w]``; float32."""
    count, _, height, width = video.shape
    which_key, side_key, place_key, angle_key = jax.random.split(key, 4)
    which = jax.random.randint(which_key, (count,), 0, 4)
    side = jax.random.uniform(side_key, (count,), minval=smallest_crop, maxval=1.0)
    side = jnp.where(which == CROP, side, 1.0)
    # A cut of side s may lie off the centre by (1 - s) / 2 of the image; enlarged back,
    # that is (1 - s) / 2s.
    place = jax.random.uniform(place_key, (count, 2), minval=-1.0, maxval=1.0)
    reach = jnp.array([height, width]) * ((1 - side) / (2 * side))[:, None]
    angle = jax.random.uniform(angle_key, (count,), minval=-1.0, maxval=1.0)
    angle = jnp.where(which == ROTATE, jnp.deg2rad(rotation) * angle, 0.0)
    last = jnp.moveaxis(video.astype(jnp.float32), 1, -1)
    moved = jnp.moveaxis(warp(last, angle, 1 / side, place * reach), -1, 1)
    flipped = (which == FLIP)[:, None, None, None]
    return jnp.where(flipped, moved[..., ::-1], moved)
