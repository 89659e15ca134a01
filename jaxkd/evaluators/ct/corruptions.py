"""Disturbances of CT scans, to see how far a classifier can be trusted."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp


def noise(volumes: jax.Array, *, sd: float) -> jax.Array:
    """Adds noise of ``sd`` Hounsfield units to int16 ``[b, d, h, w]``."""
    grain = jax.random.normal(jax.random.key(0), volumes.shape, jnp.float32)
    return _rounded(volumes + sd * grain)


def thin(volumes: jax.Array, *, keep_every: int) -> jax.Array:
    """Keeps one slice in ``keep_every`` and interpolates the others."""
    depth = volumes.shape[1]
    places = jnp.arange(depth) / keep_every
    last = (depth - 1) // keep_every
    below = jnp.clip(jnp.floor(places).astype(jnp.int32), 0, last)
    above = jnp.clip(below + 1, 0, last)
    share = jnp.clip(places - below, 0, 1)[:, None, None]
    kept = volumes[:, ::keep_every].astype(jnp.float32)
    return _rounded((1 - share) * kept[:, below] + share * kept[:, above])


def offset(volumes: jax.Array, *, units: float) -> jax.Array:
    """Adds Hounsfield units, as a scanner out of calibration does."""
    return _rounded(volumes + units)


def _rounded(values: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(values), -1024, 3071).astype(jnp.int16)


UNDISTURBED = "as they are"

DISTURBANCES: dict[str, Callable[[jax.Array], jax.Array]] = {
    UNDISTURBED: lambda volumes: volumes,
    "noise 50 HU": partial(noise, sd=50.0),
    "noise 100 HU": partial(noise, sd=100.0),
    "slices 1/2": partial(thin, keep_every=2),
    "slices 1/4": partial(thin, keep_every=4),
    "offset −100 HU": partial(offset, units=-100.0),
    "offset +100 HU": partial(offset, units=100.0),
}
