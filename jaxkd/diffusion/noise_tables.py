"""Tables of discrete-time diffusion: signal levels, and the timesteps of a sampler.

Networks of Stable Diffusion's kind know 1,000 timesteps. A sampler visits a few; its
table is made on the host and scanned over, so that one program serves any schedule of
the same number of steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TRAINED_STEPS = 1000


class Table(NamedTuple):
    """The steps of a sampler, in their order.

    Attributes:
      timestep: ``[n]``, what the network is given.
      alpha: ``[n]``, the signal's share of the variance there (alphas_cumprod).
      alpha_next: ``[n]``, the share after the step.
    """

    timestep: np.ndarray
    alpha: np.ndarray
    alpha_next: np.ndarray


def alphas_cumprod(
    steps: int = TRAINED_STEPS, low: float = 0.00085, high: float = 0.012
) -> np.ndarray:
    """Computes Stable Diffusion's ``alphas_cumprod`` ``[steps]``, float32.

    The betas are even in their root ("scaled linear"); the product is rounded to
    float32 at each step, as in the published code.
    """
    betas = np.linspace(low**0.5, high**0.5, steps, dtype=np.float32) ** 2
    return np.cumprod(np.float32(1) - betas, dtype=np.float32)


def add_noise(clean: jax.Array, noise: jax.Array, alpha: jax.Array) -> jax.Array:
    """Computes ``sqrt(alpha) clean + sqrt(1 - alpha) noise``, alpha ``[]`` or
    ``[batch]``.
    """
    alpha = _along(alpha, clean)
    return jnp.sqrt(alpha) * clean + jnp.sqrt(1 - alpha) * noise


def predict_clean(x: jax.Array, noise: jax.Array, alpha: jax.Array) -> jax.Array:
    """Solves ``add_noise`` for the clean data, alpha ``[]`` or ``[batch]``."""
    alpha = _along(alpha, x)
    return (x - jnp.sqrt(1 - alpha) * noise) / jnp.sqrt(alpha)


def check_steps(steps: int, trained: int) -> None:
    """Checks a number of steps.

    Raises:
      ValueError: if it is not of 1 to ``trained``.
    """
    if not 1 <= steps <= trained:
        raise ValueError(f"{steps} steps; expected 1 to {trained}.")


def _along(alpha: jax.Array, x: jax.Array) -> jax.Array:
    alpha = jnp.asarray(alpha)
    return alpha.reshape(*alpha.shape, *(1,) * (x.ndim - 1)) if alpha.ndim else alpha
