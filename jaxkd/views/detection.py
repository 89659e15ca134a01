"""The view of detection across resolutions: a large image, its half, and boxes."""

import jax
import jax.numpy as jnp

from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import degrade
from jaxkd.views.ops import View, normalize


def detection(info: Info, *, flip: bool = True, kernel: str = "nearest") -> View:
    """Makes ``image`` (normalised) and ``low``, of half its side; mirrors with boxes.

    As in MSAD the small image is made of the normalised large one by taking every other
    pixel, and the boxes stay those of the large image.

    Args:
      info: of the data set.
      flip: whether training images are mirrored left to right with probability 1/2.
      kernel: that makes the small image, see ``degrade``.
    """
    width = info.image_shape[1]

    def add(batch: Batch) -> Batch:
        height, width = batch["image"].shape[1:3]
        small = degrade.resize(batch["image"], (height // 2, width // 2), kernel)
        return batch | {"low": small}

    def evaluate(batch: Batch) -> Batch:
        return add(batch | {"image": normalize(batch["image"], info)})

    def train(key: jax.Array, batch: Batch) -> Batch:
        batch = batch | {"image": normalize(batch["image"], info)}
        if not flip:
            return add(batch)
        turned = jax.random.bernoulli(key, 0.5, (len(batch["image"]), 1, 1))
        images = jnp.where(
            turned[..., None], batch["image"][:, :, ::-1], batch["image"]
        )
        boxes = batch["boxes"]
        mirrored = jnp.stack(
            [
                width - boxes[..., 2],
                boxes[..., 1],
                width - boxes[..., 0],
                boxes[..., 3],
            ],
            axis=-1,
        )
        return add(
            batch | {"image": images, "boxes": jnp.where(turned, mirrored, boxes)}
        )

    return View(train, evaluate)
