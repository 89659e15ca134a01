"""Noise clocks: how the time of a variance-preserving model maps to sigma.

The samplers work in sigma, the standard deviation of the noise added to clean data.
Models trained on another clock, and schedules and solvers that are even in it, need
the map in both directions. Every function takes the array module to use, so that
schedules are made in float64 NumPy and denoisers inside a compiled function.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Array = Any  # A NumPy or a JAX array, as the ``xp`` argument says.


class LinearBeta(NamedTuple):
    """The clock of VP diffusion with linear beta (Song et al. 2021, arXiv 2011.13456).

    ``1 + sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t)`` on ``0 < t <= 1``.

    Attributes:
      beta_d: growth of beta over the unit of time.
      beta_min: beta at time 0.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1

    def sigma(self, time: Array, xp: ModuleType = np) -> Array:
        """Returns sigma at a time."""
        return xp.sqrt(xp.expm1((0.5 * self.beta_d * time + self.beta_min) * time))

    def time(self, sigma: Array, xp: ModuleType = np) -> Array:
        """Returns the time at which sigma is reached."""
        log = 2 * self.beta_d * xp.log1p(sigma**2)
        return (xp.sqrt(self.beta_min**2 + log) - self.beta_min) / self.beta_d


def fit_linear_beta(
    sigma_min: float, sigma_max: float, eps: float = 1e-3
) -> LinearBeta:
    """Returns the clock that shows ``eps`` at sigma_min and 1 at sigma_max.

    Raises:
      ValueError: if no clock of this form is increasing over that range.
    """
    low, high = np.log1p(sigma_min**2), np.log1p(sigma_max**2)
    beta_d = 2 * (low / eps - high) / (eps - 1)
    beta_min = high - beta_d / 2
    # The logarithm grows at a rate linear in time, so its ends decide; the inverse
    # divides by beta_d.
    if beta_d * eps + beta_min <= 0 or beta_d <= 0:
        raise ValueError(
            f"sigma from {sigma_min:g} to {sigma_max:g} does not fit a "
            f"variance-preserving clock from {eps:g} to 1. Take a smaller sigma_min, "
            "or a schedule that is even in sigma (polynomial, logsnr)."
        )
    return LinearBeta(float(beta_d), float(beta_min))


class TableClock(NamedTuple):
    """The clock of a model trained at discrete times, linear in log alpha between.

    As in DPM-Solver (arXiv 2206.00927, appendix) for discrete-time models; beyond the
    table it goes on with the slope of the last piece.

    Attributes:
      log_alpha: ``[steps]``, half the logarithm of ``alphas_cumprod``, decreasing;
        entry ``k`` belongs to time ``(k + 1) / steps``.
    """

    log_alpha: Array

    def sigma(self, time: Array, xp: ModuleType = np) -> Array:
        """Returns sigma at a time."""
        steps = len(self.log_alpha)
        times = xp.arange(1, steps + 1) / steps
        return xp.sqrt(xp.expm1(-2 * _interpolate(time, times, self.log_alpha, xp)))

    def time(self, sigma: Array, xp: ModuleType = np) -> Array:
        """Returns the time at which sigma is reached."""
        steps = len(self.log_alpha)
        times = xp.arange(steps, 0, -1) / steps
        log_alpha = xp.flip(self.log_alpha)  # Increasing, as the search wants it.
        return _interpolate(-0.5 * xp.log1p(sigma**2), log_alpha, times, xp)


def stable_diffusion_clock(steps: int = 1000) -> TableClock:
    """Returns the clock of Stable Diffusion 1 and 2 (beta linear in its root)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, steps) ** 2
    return TableClock(0.5 * np.cumsum(np.log1p(-betas)))


def iddpm_sigmas(steps: int = 1000, c1: float = 0.001, c2: float = 0.008) -> np.ndarray:
    """Returns the noise levels of iDDPM, ``[steps + 1]``, decreasing to zero.

    The cosine schedule of arXiv 2102.09672 as sigma (arXiv 2206.00364, table 1).
    """
    alpha_bar = np.sin(0.5 * np.pi * np.arange(steps + 1) / (steps * (1 + c2))) ** 2
    sigmas = np.zeros(steps + 1)
    for j in range(steps, 0, -1):
        ratio = max(alpha_bar[j - 1] / alpha_bar[j], c1)
        sigmas[j - 1] = np.sqrt((sigmas[j] ** 2 + 1) / ratio - 1)
    return sigmas


def _interpolate(x: Array, xs: Array, ys: Array, xp: ModuleType) -> Array:
    """Returns the piecewise linear function through (xs, ys), xs increasing."""
    xs, ys = xp.asarray(xs), xp.asarray(ys)
    right = xp.clip(xp.searchsorted(xs, x), 1, len(xs) - 1)
    left = right - 1
    slope = (ys[right] - ys[left]) / (xs[right] - xs[left])
    return ys[left] + slope * (x - xs[left])
