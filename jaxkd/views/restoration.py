"""Views for restoration: large images in [-1, 1], turned and mirrored."""

import jax
import jax.numpy as jnp

from jaxkd.core.types import Batch
from jaxkd.views.ops import View

FIELDS = ("image", "low")


def signed_dihedral(info) -> View:
    """Scales uint8 to [-1, 1]; mirrors and turns training images by quarters.

    The fields ``image`` and, where the data have it, ``low`` move together; images must
    be square to be turned, and others are mirrored only.
    """
    del info

    def scale(batch: Batch) -> Batch:
        seen = {name: batch[name] for name in FIELDS if name in batch}
        return batch | {n: x.astype(jnp.float32) / 127.5 - 1 for n, x in seen.items()}

    def train(key: jax.Array, batch: Batch) -> Batch:
        batch = scale(batch)
        bits = jax.random.bernoulli(key, 0.5, (3, len(batch["image"]), 1, 1, 1))
        for name in FIELDS:
            if name in batch:
                batch[name] = dihedral(batch[name], bits)
        return batch

    return View(train, scale)


def dihedral(images: jax.Array, bits: jax.Array) -> jax.Array:
    """Mirrors images up-down and left-right, and transposes them.

    Args:
      images: ``[b, h, w, c]``; not transposed unless square.
      bits: bool ``[3, b, 1, 1, 1]``, which of the three.
    """
    images = jnp.where(bits[0], images[:, ::-1], images)
    images = jnp.where(bits[1], images[:, :, ::-1], images)
    if images.shape[1] != images.shape[2]:
        return images
    return jnp.where(bits[2], images.swapaxes(1, 2), images)
