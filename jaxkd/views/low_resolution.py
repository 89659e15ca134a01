"""Views for recognition across resolutions: what the large and the small network see.

``low`` adds a degraded copy of the images of any other view, made from the very same
augmented images, so that a teacher and its student look at one crop in one colour.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from jaxkd import views
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Interval, Items, Range, Stretch
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import degrade, ops

# Values of black and white after ``recolour``.
RECOLOUR_LEVELS = (-2.0, 2.0)

Quality = Annotated[tuple[int, int], Items(rising=True), Range(1, 100)]


def low(
    info: Info,
    *,
    base: Mapping[str, Any],
    side: int,
    kernel: str = "area",
    up_to: int | None = None,
    up_kernel: str = "bicubic_aa",
    blur: Interval = (0.0, 0.0),
    noise: Interval = (0.0, 0.0),
    quality: Quality | None = None,
    levels: Annotated[Stretch, Range(None)] | None = None,
    field: str = "low",
    source: str = "image",
) -> ops.View:
    """Adds a degraded copy of the images to another view, as the batch's field ``low``.

    Random blur, noise and quality are drawn in evaluation too, but always alike.

    Args:
      info: of the data set.
      base: the other view: its ``name`` and options.
      side: see ``degrade.Degradation``, as all down to ``levels``.
      kernel: likewise.
      up_to: likewise.
      up_kernel: likewise.
      blur: likewise.
      noise: likewise.
      quality: likewise.
      levels: black and white as the other view leaves them; only noise and JPEG ask.
      field: where the copy goes.
      source: the field that is degraded: that of a ``low`` among the bases can be
        degraded further, or enlarged.

    Raises:
      UserError: if an option is out of its range, or noise or JPEG lack ``levels``; or,
        of the view, if a batch has the field already.
    """
    options = dict(base)
    other = views.build(str(options.pop("name", "")), info, **options)
    if levels is None and (noise[1] or quality is not None):
        raise UserError(
            "View 'low' adds noise or JPEG, but does not know what black and white "
            f"are after the view {dict(base)}. Set levels, such as "
            f"{RECOLOUR_LEVELS} after 'recolour'."
        )
    how = degrade.Degradation(
        side,
        kernel,
        up_to,
        up_kernel,
        blur,
        noise,
        quality,
        levels or (0.0, 1.0),
    )
    if source == "image":
        degrade.check(how, info.image_shape[-3:-1])

    def add(key: jax.Array, batch: Batch) -> Batch:
        lookup.choose(source, batch, what="source of view 'low'")
        if field in batch:
            raise UserError(
                f"View 'low' would replace the field {field!r}, which the data or a "
                "view below already have. Use the view below alone to keep it (it must "
                "scale that field, as 'signed_dihedral' does), load the data without "
                "it (config.data.low = False), or set another field."
            )
        return batch | {field: degrade.degrade(key, batch[source], how)}

    def train(key: jax.Array, batch: Batch) -> Batch:
        return add(jax.random.fold_in(key, 2), other.train(key, batch))

    def evaluate(batch: Batch) -> Batch:
        return add(jax.random.key(0), other.evaluate(batch))

    return ops.View(train, evaluate)


def recolour(info: Info, *, shift: int = 2) -> ops.View:
    """Shifts, recolours and inverts training images; all are scaled to [-2, 2].

    For characters on coloured backgrounds, whose class does not depend on colour or
    polarity: a circular shift by whole pixels along each axis, a random order of the
    channels, and an exchange of black and white with probability one half.

    Args:
      info: of the data set.
      shift: largest shift in pixels, either way; at most the images' side.

    Raises:
      UserError: if an option is out of its range.
    """
    ops.check_shift(shift, info.image_shape[:2])

    def scale(images: jax.Array) -> jax.Array:
        return (images.astype(jnp.float32) / 255 - 0.5) * 4

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        shift_key, colour_key, sign_key = jax.random.split(key, 3)
        steps = jax.random.randint(shift_key, (len(images), 2), -shift, shift + 1)
        images = roll(scale(images), steps)
        images = ops.permute_channels(colour_key, images)
        sign = jax.random.rademacher(sign_key, (len(images), 1, 1, 1), jnp.float32)
        return sign * images

    return ops.of_images(train, scale)


def roll(images: jax.Array, steps: jax.Array) -> jax.Array:
    """Shifts each image ``[b, h, w, c]`` by ``steps`` ``[b, 2]``, round and round."""

    def one(image: jax.Array, steps: jax.Array) -> jax.Array:
        return jnp.roll(jnp.roll(image, steps[0], axis=0), steps[1], axis=1)

    return jax.vmap(one)(images, steps)


def noisy(
    info: Info, *, base: Mapping[str, Any], source: str = "low", time: float = 0.1
) -> ops.View:
    """Adds what a conditional denoiser reads, as the batch's field ``noisy``.

    The images with a little noise, the small images enlarged, and the time: what
    ``add_noise`` returns. An image's noise depends on its place in the batch alone.

    Args:
      info: of the data set.
      base: the other view, which makes the small images: its ``name`` and options.
      source: the field of the small images.
      time: of the noise, in (0, 1].

    Raises:
      UserError: if ``time`` is out of its range.
    """
    options = dict(base)
    other = views.build(str(options.pop("name", "")), info, **options)
    if not 0 < time <= 1:
        raise UserError(f"View 'noisy' got time={time}, expected a time in (0, 1].")

    def add(batch: Batch) -> Batch:
        lookup.choose(source, batch, what="source of view 'noisy'")
        images = batch["image"]
        condition = degrade.resize(batch[source], images.shape[1:3], "bicubic_aa")
        noise = jax.random.normal(jax.random.key(0), images.shape)
        times = jnp.full(len(images), time)
        return batch | {"noisy": add_noise(images, condition, noise, times)}

    return ops.View(
        lambda key, batch: add(other.train(key, batch)),
        lambda batch: add(other.evaluate(batch)),
    )


def add_noise(
    images: jax.Array, condition: jax.Array, noise: jax.Array, time: jax.Array
) -> jax.Array:
    """Joins noisy images, a condition and the time: ``[b, h, w, 2 c + 1]``.

    ``x_t = cos(pi t / 2) x + sin(pi t / 2) noise``.

    Args:
      images: ``[b, h, w, c]``.
      condition: ``[b, h, w, c]``.
      noise: ``[b, h, w, c]``, standard normal.
      time: ``[b]``, in [0, 1].
    """
    angle = jnp.pi / 2 * time[:, None, None, None]
    mixed = jnp.cos(angle) * images + jnp.sin(angle) * noise
    plane = jnp.broadcast_to(time[:, None, None, None], (*images.shape[:-1], 1))
    return jnp.concatenate([mixed, condition, plane], axis=-1)
