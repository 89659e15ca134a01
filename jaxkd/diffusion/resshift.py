"""ResShift: diffusion between a large image and its enlarged small version.

Yue et al., "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
Shifting" (arXiv:2307.12348), and its one-step sampling (SinSR, arXiv:2311.14760;
TAD-SR, arXiv:2408.07476). With ``x_0`` the large image, ``y`` the enlarged small one
and ``e_t`` rising from about 0 to about 1 over ``T`` steps ``t = 0 ... T - 1``,

``x_t = x_0 + e_t (y - x_0) + kappa sqrt(e_t) n``, with ``n`` standard normal.

Images are ``[batch, ...]``, in about [-1, 1]; ``t`` is an integer, or one per image. A
denoiser maps ``(x_t, t)`` to a prediction of ``x_0``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


class Schedule(NamedTuple):
    """The shifting schedule.

    Attributes:
      sqrt_eta: ``sqrt(e_t)``, ``[T]``, increasing.
      kappa: noise at ``e_t = 1``.
    """

    sqrt_eta: jax.Array
    kappa: float

    @property
    def num_steps(self) -> int:
        """``T``."""
        return len(self.sqrt_eta)


def schedule(
    num_steps: int = 15,
    *,
    kappa: float = 2.0,
    least: float = 0.04,
    largest: float = 0.99,
    power: float = 0.3,
) -> Schedule:
    """Makes the geometric schedule of ResShift.

    ``sqrt(e_t) = s (largest / s)^((t / (T - 1))^power)`` with
    ``s = min(least / kappa, least, sqrt(0.001))`` (arXiv:2307.12348, equation 5).
    ``largest``, named ``etas_end`` in the public code, is the end of the *root*.

    Args:
      num_steps: ``T``, at least 2: 15 for photographs, 4 for faces.
      kappa: positive.
      least: noise of the first step, 0.04 for photographs and 0.2 for faces.
      largest: up to 1.
      power: positive; below 1 shifts faster at first.

    Raises:
      ValueError: for values outside of these ranges.

    >>> s = schedule(4, least=0.2)
    >>> [round(float(x), 2) for x in s.sqrt_eta], s.num_steps
    ([0.03, 0.38, 0.67, 0.99], 4)
    """
    if num_steps < 2 or min(kappa, least, power) <= 0 or not 0 < largest <= 1:
        raise ValueError(
            f"num_steps is {num_steps}, kappa {kappa}, least {least}, power {power} "
            f"and largest {largest}, expected at least 2 steps, positive numbers, and "
            "largest up to 1."
        )
    start = min(least / kappa, least, 0.001**0.5)
    place = np.linspace(0, 1, num_steps) ** power
    return Schedule(jnp.asarray(start * (largest / start) ** place, jnp.float32), kappa)


def _eta(s: Schedule, t, ndim: int) -> jax.Array:
    """Returns ``e_t``, shaped to multiply images; 0 for ``t = -1``."""
    t = jnp.asarray(t)
    eta = jnp.where(t < 0, 0, s.sqrt_eta[jnp.maximum(t, 0)] ** 2)
    return eta.reshape(eta.shape + (1,) * (ndim - 1)) if eta.ndim else eta


def add_noise(s: Schedule, x0, y, t, noise) -> jax.Array:
    """Computes ``x_t`` from both images and noise."""
    eta = _eta(s, t, x0.ndim)
    return x0 + eta * (y - x0) + s.kappa * jnp.sqrt(eta) * noise


def implied_noise(s: Schedule, x, x0, y, t) -> jax.Array:
    """Computes the noise that would have led from ``x_0`` to ``x_t``."""
    eta = _eta(s, t, x.ndim)
    return (x - x0 - eta * (y - x0)) / (s.kappa * jnp.sqrt(eta))


def scale_input(s: Schedule, x, t) -> jax.Array:
    """Scales ``x_t`` to about unit variance: over ``sqrt(kappa^2 e_t + 1)``."""
    return x / jnp.sqrt(s.kappa**2 * _eta(s, t, x.ndim) + 1)


def posterior(s: Schedule, x, x0, t) -> tuple[jax.Array, jax.Array]:
    """Computes mean and variance of ``x_{t-1}`` given ``x_t`` and ``x_0``.

    ``(e_{t-1} / e_t) x_t + (a_t / e_t) x_0`` and ``kappa^2 (e_{t-1} / e_t) a_t`` with
    ``a_t = e_t - e_{t-1}`` and ``e_{-1} = 0`` (arXiv:2307.12348, equation 7).
    """
    now, before = _eta(s, t, x.ndim), _eta(s, jnp.asarray(t) - 1, x.ndim)
    kept = before / now
    return kept * x + (1 - kept) * x0, s.kappa**2 * kept * (now - before)


def deterministic_step(s: Schedule, x, x0, y, t) -> jax.Array:
    """Computes ``x_{t-1}`` with the noise that ``x_t`` and ``x_0`` imply (DDIM-like).

    ``k x_0 + m x_t + j y`` with ``m = sqrt(e_{t-1} / e_t)``,
    ``j = e_{t-1} - sqrt(e_{t-1} e_t)`` and ``k = 1 - j - m`` (SinSR, equation 7).
    """
    now, before = _eta(s, t, x.ndim), _eta(s, jnp.asarray(t) - 1, x.ndim)
    m, j = jnp.sqrt(before / now), before - jnp.sqrt(before * now)
    return (1 - j - m) * x0 + m * x + j * y


def start(s: Schedule, y, noise) -> jax.Array:
    """Makes the sampler's start ``y + kappa sqrt(e_{T-1}) n``, as the public code does.

    The forward process has ``x_0 + e_{T-1} (y - x_0)`` in place of ``y``, which nobody
    knows at inference.
    """
    return y + s.kappa * s.sqrt_eta[-1] * noise


def sample(
    denoise: Denoiser, s: Schedule, y, noise, *, key: jax.Array | None = None
) -> jax.Array:
    """Samples in ``T`` steps.

    Args:
      denoise: ``(x_t, t) -> x_0``, for one ``t`` of all images.
      s: the schedule.
      y: enlarged small images.
      noise: standard normal, of their shape.
      key: for the steps' noise; None samples deterministically, the teacher of
        one-step students.

    Returns:
      ``x_0``, of the shape of ``y``.
    """

    def step(x, t):
        x0 = denoise(x, t)
        if key is None:
            return deterministic_step(s, x, x0, y, t), None
        mean, variance = posterior(s, x, x0, t)
        fresh = jax.random.normal(jax.random.fold_in(key, t), x.shape, x.dtype)
        return mean + jnp.sqrt(variance) * fresh, None

    steps = jnp.arange(s.num_steps)[::-1]
    return jax.lax.scan(step, start(s, y, noise), steps)[0]


def sample_once(denoise: Denoiser, s: Schedule, y, noise) -> jax.Array:
    """Samples in one step: the prediction of ``x_0`` at ``t = T - 1``."""
    return denoise(start(s, y, noise), jnp.asarray(s.num_steps - 1))
