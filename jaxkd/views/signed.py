"""The view that generative models are trained on: pixels from -1 to 1."""

import jax
import jax.numpy as jnp

from jaxkd.core.source import Info
from jaxkd.views.ops import View, of_images


def signed(info: Info) -> View:
    """Scales uint8 to [-1, 1], without augmentation."""
    del info

    def scale(images: jax.Array) -> jax.Array:
        return images.astype(jnp.float32) / 127.5 - 1

    return of_images(lambda key, images: scale(images), scale)
