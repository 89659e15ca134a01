"""Measures how far features spread, to notice encoders that collapse."""

import jax
import jax.numpy as jnp

from jaxkd.losses.numerics import unit


def feature_std(features: jax.Array) -> jax.Array:
    """Computes how far directions spread: 1 if they fill the sphere, 0 if collapsed.

    ``sqrt(features)`` times the mean deviation of the features of unit vectors.
    """
    rows = unit(features.astype(jnp.float32))
    return jnp.sqrt(rows.shape[-1]) * jnp.mean(jnp.std(rows, axis=0))
