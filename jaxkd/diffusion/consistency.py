"""Sampling of latent consistency models (Luo et al. 2023, arXiv 2310.04378)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.diffusion import noise_tables
from jaxkd.diffusion.noise_tables import Table

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def table(
    steps: int, *, alphas: np.ndarray | None = None, original_steps: int = 50
) -> Table:
    """Makes the table of LCM: a few of the timesteps that the model was distilled on.

    The candidates are ``20 i - 1`` for i = 1..50 in falling order, of which every
    50/steps-th is taken: 999, 759, 499, 259 for 4 steps. After the last step the
    signal's share stays that of the last timestep, which only DDCM uses.

    Args:
      steps: of the sampler.
      alphas: ``alphas_cumprod``; by default Stable Diffusion's.
      original_steps: timesteps that the model was distilled on.

    Raises:
      ValueError: for more steps than those.
    """
    alphas = noise_tables.alphas_cumprod() if alphas is None else alphas
    noise_tables.check_steps(steps, original_steps)
    ratio = len(alphas) // original_steps
    candidates = (np.arange(1, original_steps + 1) * ratio - 1)[::-1]
    picked = np.floor(np.linspace(0, original_steps, steps, endpoint=False))
    times = candidates[picked.astype(np.int64)].astype(np.int32)
    following = np.append(times[1:], times[-1])
    return Table(times, alphas[times], alphas[following])


def boundary(timestep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes ``c_skip`` and ``c_out``, which make the model the identity at time 0.

    ``c_skip = d^2 / (s^2 + d^2)`` and ``c_out = s / sqrt(s^2 + d^2)`` with ``s = 10 t``
    and ``d = 0.5``.
    """
    s = TIMESTEP_SCALING * jnp.asarray(timestep, jnp.float32)
    total = s**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, s / jnp.sqrt(total)


def step(
    x: jax.Array,
    eps: jax.Array,
    timestep: jax.Array,
    alpha: jax.Array,
    alpha_next: jax.Array,
    noise: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Does one step of multistep consistency sampling.

    ``d = c_out x0 + c_skip x`` and ``x' = sqrt(a') d + sqrt(1 - a') noise``.

    Args:
      x: ``[batch, ...]``.
      eps: predicted noise of the same shape.
      timestep: of ``x``, a scalar.
      alpha: share of the signal in ``x``.
      alpha_next: share in the result.
      noise: of the shape of ``x``.

    Returns:
      The next state, and ``d``, which after the last step is the sample.
    """
    c_skip, c_out = boundary(timestep)
    clean = (x - jnp.sqrt(1 - alpha) * eps) / jnp.sqrt(alpha)
    denoised = c_out * clean + c_skip * x
    return (
        jnp.sqrt(alpha_next) * denoised + jnp.sqrt(1 - alpha_next) * noise,
        denoised,
    )


def sample(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    steps: Table,
    key: jax.Array,
) -> jax.Array:
    """Runs a table of ``table`` in one scan; returns the last denoised state.

    Args:
      predict: ``(x, timestep) -> noise``, one pass: the scale of guidance, if any, is
        an input of the network.
      x: ``[batch, ...]``, Gaussian noise.
      steps: the table.
      key: of the noise between steps, folded with the number of the step.
    """

    def advance(x, row):
        number, timestep, alpha, alpha_next = row
        noise = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
        eps = predict(x, timestep)
        return step(x, eps, timestep, alpha, alpha_next, noise)

    rows = (jnp.arange(len(steps.timestep)), *map(jnp.asarray, steps))
    return jax.lax.scan(advance, x, rows)[1][-1]
