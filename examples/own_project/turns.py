"""An augmentation of one's own: random quarter turns, on the device."""

import jax
import jax.numpy as jnp

from jaxkd.core.source import Info
from jaxkd.views import ops


def quarter_turns(info: Info, *, flip: bool = True) -> ops.View:
    """Turns square images by 0 to 3 quarters and flips every other one."""

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        turn, mirror = jax.random.split(key)
        quarters = jax.random.randint(turn, (len(images), 1, 1, 1), 0, 4)
        turned = images
        for count in (1, 2, 3):
            rotated = jnp.rot90(images, count, axes=(1, 2))
            turned = jnp.where(quarters == count, rotated, turned)
        turned = ops.random_flip(mirror, turned) if flip else turned
        return ops.normalize(turned, info)

    return ops.of_images(train, lambda images: ops.normalize(images, info))
