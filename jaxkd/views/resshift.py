"""The view of ResShift: what its network reads to start from noise."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import views
from jaxkd.core import lookup
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.diffusion import resshift
from jaxkd.models.swin_unet import pack
from jaxkd.views import degrade
from jaxkd.views.ops import View

FIELD = "packed"


def noised(
    info: Info,
    *,
    base: Mapping[str, Any],
    source: str = "low",
    schedule: Mapping[str, Any] | None = None,
) -> View:
    """Adds the sampler's start as the batch's field ``packed``.

    Its channels are the enlarged small image with the noise of the last step, scaled;
    the enlarged small image; and the step, which is 1 (see ``swin_unet.pack``). In
    evaluation an image's noise depends on its place in the batch alone.

    Args:
      info: of the data set.
      base: the other view, which makes the small images: its ``name`` and options.
      source: the field of the small images.
      schedule: options of ``resshift.schedule``.
    """
    options = dict(base)
    other = views.build(str(options.pop("name", "")), info, **options)
    process = lookup.call(
        resshift.schedule, dict(schedule or {}), what="schedule of view 'noised'"
    )

    def add(key: jax.Array, batch: Batch) -> Batch:
        lookup.choose(source, batch, what="source of view 'noised'")
        y = degrade.resize(batch[source], batch["image"].shape[1:3], "bicubic_aa")
        noise = jax.random.normal(key, y.shape)
        last = process.num_steps - 1
        x = resshift.scale_input(process, resshift.start(process, y, noise), last)
        return batch | {FIELD: pack(x, y, jnp.ones(()))}

    def train(key: jax.Array, batch: Batch) -> Batch:
        return add(jax.random.fold_in(key, 3), other.train(key, batch))

    return View(train, lambda batch: add(jax.random.key(0), other.evaluate(batch)))
