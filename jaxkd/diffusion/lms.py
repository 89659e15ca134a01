"""Linear multistep sampling on discrete timesteps (arXiv 2206.00364, Katherine
Crowson's LMS).

In the scaled state ``x / sqrt(alpha)`` the probability flow is ``dx = eps dsigma``; the
last few predictions are interpolated by a polynomial and integrated exactly. Of order 1
it is DDIM.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import Polynomial

from jaxkd.diffusion import noise_tables


class Multistep(NamedTuple):
    """The steps of a sampler, in their order.

    Attributes:
      timestep: ``[n]``, what the network is given; not whole in general.
      alpha: ``[n]``, share of the signal there.
      alpha_next: ``[n]``, share after the step; 1 after the last.
      weights: ``[n, order]``, factors of the newest prediction and those before it.
    """

    timestep: np.ndarray
    alpha: np.ndarray
    alpha_next: np.ndarray
    weights: np.ndarray


def table(
    steps: int,
    *,
    order: int = 4,
    last: int | None = None,
    alphas: np.ndarray | None = None,
) -> Multistep:
    """Makes the table of LMS: timesteps even from 999 to 0, the noise interpolated.

    Args:
      steps: of the whole schedule.
      order: predictions that a step uses at most.
      last: of the steps to keep, to start from a noised image; None keeps all.
      alphas: ``alphas_cumprod``; by default Stable Diffusion's.

    Raises:
      ValueError: for an impossible number of steps, or an order below 1.
    """
    alphas = noise_tables.alphas_cumprod() if alphas is None else alphas
    noise_tables.check_steps(steps, len(alphas))
    last = steps if last is None else last
    if order < 1 or not 1 <= last <= steps:
        raise ValueError(
            f"order {order} and the last {last} of {steps} steps; expected at least 1, "
            "and not more than there are."
        )
    times = np.linspace(0, len(alphas) - 1, steps)[::-1][-last:]
    levels = np.sqrt((1 - alphas.astype(np.float64)) / alphas)
    sigmas = np.append(np.interp(times, np.arange(len(alphas)), levels), 0.0)
    shares = 1 / (1 + sigmas**2)
    return Multistep(
        times.astype(np.float32),
        shares[:-1].astype(np.float32),
        shares[1:].astype(np.float32),
        coefficients(sigmas, order).astype(np.float32),
    )


def coefficients(sigmas: np.ndarray, order: int) -> np.ndarray:
    """Computes the weights ``[n, order]`` of the steps between ``[n + 1]`` sigmas.

    Each is the integral over the step of the Lagrange polynomial that is 1 at one of
    the sigmas met so far and 0 at the others.
    """
    weights = np.zeros((len(sigmas) - 1, order))
    for i in range(len(sigmas) - 1):
        known = sigmas[max(0, i - order + 1) : i + 1][::-1]
        for j, point in enumerate(known):
            basis = Polynomial([1.0])
            for other in np.delete(known, j):
                basis = basis * Polynomial([-other, 1.0]) / (point - other)
            integral = basis.integ()
            weights[i, j] = integral(sigmas[i + 1]) - integral(sigmas[i])
    return weights


def sample(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    steps: Multistep,
) -> tuple[jax.Array, jax.Array]:
    """Runs a table in one scan.

    Args:
      predict: ``(x, timestep) -> noise``.
      x: ``[batch, ...]``, noisy by ``steps.alpha[0]``.
      steps: such as ``table`` returns.

    Returns:
      The state after the last step, and the noise predicted in it.
    """

    def advance(carry, row):
        x, history, _ = carry
        timestep, alpha, alpha_next, weights = row
        eps = predict(x, timestep)
        history = jnp.concatenate([eps[None], history[:-1]])
        moved = jnp.tensordot(weights.astype(x.dtype), history, axes=1)
        x = jnp.sqrt(alpha_next) * (x / jnp.sqrt(alpha) + moved)
        return (x, history, eps), None

    history = jnp.zeros((steps.weights.shape[1], *x.shape), x.dtype)
    rows = tuple(map(jnp.asarray, steps))
    (x, _, eps), _ = jax.lax.scan(advance, (x, history, jnp.zeros_like(x)), rows)
    return x, eps
