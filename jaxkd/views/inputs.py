"""Fields of other sizes and other normalisation, for networks that were made for them.

A teacher that was trained on 224 pixels, or on images normalised with another mean,
reads its own field (``config.needs.teacher.model.input``), made from the very crop and
flip that its student sees.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import degrade, ops

_OPTIONS = ("size", "mean", "std")


def inputs(
    info: Info,
    *,
    base: Mapping[str, Any],
    fields: Mapping[str, Mapping[str, Any]],
) -> ops.View:
    """Adds resized and otherwise normalised copies of the images to another view.

    Args:
      info: of the data set.
      base: the other view: its ``name`` and options. It must leave images that are
        normalised with the data set's mean and standard deviation, as ``plain``,
        ``flip``, ``crop_flip`` and ``randaugment`` do.
      fields: name of a new field -> ``size`` (side in pixels; by default the images'),
        ``mean`` and ``std`` (numbers per channel in [0, 1]; by default the data
        set's). Sizes are changed by bicubic interpolation, with antialiasing.

    Raises:
      UserError: if an option is unknown or out of its range.
    """
    options = dict(base)
    other = views.build(str(options.pop("name", "")), info, **options)
    makers = {name: _maker(name, one, info) for name, one in fields.items()}

    def add(batch: Batch) -> Batch:
        return batch | {name: make(batch["image"]) for name, make in makers.items()}

    return ops.View(
        lambda key, batch: add(other.train(key, batch)),
        lambda batch: add(other.evaluate(batch)),
    )


def _maker(name: str, chosen: Mapping[str, Any], info: Info):
    unknown = sorted(set(chosen) - set(_OPTIONS))
    size = chosen.get("size")
    mean, std = (
        jnp.asarray(chosen.get(key, getattr(info, key)), jnp.float32)
        for key in ("mean", "std")
    )
    channels = (info.image_shape[-1],)
    fits = size is None or (isinstance(size, int) and size > 0)
    if unknown or not fits or {mean.shape, std.shape} != {channels}:
        raise UserError(
            f"config.view.fields.{name} is {dict(chosen)}, expected size (pixels), "
            f"mean and std ({channels[0]} numbers each), all of them optional."
        )
    old_mean, old_std = (
        jnp.asarray(value, jnp.float32) for value in (info.mean, info.std)
    )

    def make(images: jax.Array) -> jax.Array:
        pixels = (images * old_std + old_mean - mean) / std
        if size is None or size == images.shape[1] == images.shape[2]:
            return pixels
        return degrade.resize(pixels, (size, size), "bicubic_aa")

    return make
