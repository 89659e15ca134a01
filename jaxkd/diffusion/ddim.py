"""DDIM (Song et al. 2021, arXiv 2010.02502) on discrete timesteps, and inverted."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.diffusion import noise_tables
from jaxkd.diffusion.noise_tables import Table

Noise = Callable[[jax.Array, jax.Array], jax.Array]


def table(
    steps: int,
    *,
    alphas: np.ndarray | None = None,
    offset: int = 1,
    final: float | None = None,
) -> Table:
    """Makes the table of Stable Diffusion's DDIM: timesteps spaced from the low end.

    With ``r = 1000 // steps`` the timesteps are ``r i + offset`` in falling order: 981,
    961 .. 1 for 50 steps; each goes to the one ``r`` below it.

    Args:
      steps: of the sampler.
      alphas: ``alphas_cumprod``; by default Stable Diffusion's.
      offset: of the timesteps.
      final: share of the signal after the last step; by default that of timestep 0.

    Raises:
      ValueError: if there are more steps than timesteps.
    """
    alphas = noise_tables.alphas_cumprod() if alphas is None else alphas
    noise_tables.check_steps(steps, len(alphas))
    ratio = len(alphas) // steps
    times = (np.arange(steps) * ratio)[::-1].astype(np.int32)
    # With a step for every timestep there is no room for an offset.
    times = times + min(offset, len(alphas) - 1 - int(times[0]))
    before = times - ratio
    end = alphas[0] if final is None else final
    following = np.where(before >= 0, alphas[np.maximum(before, 0)], end)
    return Table(times, alphas[times], following.astype(alphas.dtype))


def inverse(forward: Table) -> Table:
    """Makes the table that leads from data back to noise.

    The steps are those of ``forward`` in reverse; at each the network is given the
    timestep of the noisier end, as is usual.
    """
    return Table(forward.timestep[::-1], forward.alpha_next[::-1], forward.alpha[::-1])


def part(whole: Table, strength: float) -> Table:
    """Returns the last steps of a table, from the noise of ``strength`` (0 to 1] on.

    Raises:
      ValueError: for another strength, or if no step is left.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength}; expected above 0, at most 1.")
    count = int(len(whole.timestep) * strength)
    if count < 1:
        raise ValueError(
            f"strength {strength} of {len(whole.timestep)} steps leaves none; expected "
            "more of either."
        )
    return Table(*(column[-count:] for column in whole))


def step(
    x: jax.Array,
    eps: jax.Array,
    alpha: jax.Array,
    alpha_next: jax.Array,
    *,
    eta: float = 0.0,
    noise: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Does one step (eq. 12 and 16).

    ``x' = sqrt(a') x0 + sqrt(1 - a' - s^2) eps + s noise`` with
    ``x0 = (x - sqrt(1 - a) eps) / sqrt(a)`` and
    ``s^2 = eta^2 (1 - a') / (1 - a) (1 - a / a')``.

    Args:
      x: ``[batch, ...]``.
      eps: predicted noise of the same shape.
      alpha: share of the signal in ``x``, a scalar.
      alpha_next: share in the result.
      eta: 0 for no randomness, 1 for that of DDPM.
      noise: of the shape of ``x``; needed where ``eta`` is not 0.

    Returns:
      The next state, and the clean data predicted.

    Example:
      >>> x0, eps = jnp.ones((1, 2)), jnp.zeros((1, 2))
      >>> following, clean = step(0.5 * x0, eps, 0.25, 0.25)
      >>> following.tolist(), clean.tolist()
      ([[0.5, 0.5]], [[1.0, 1.0]])

    Raises:
      ValueError: if ``eta`` is not 0 and there is no noise.
    """
    clean = (x - jnp.sqrt(1 - alpha) * eps) / jnp.sqrt(alpha)
    if eta == 0:
        return jnp.sqrt(alpha_next) * clean + jnp.sqrt(1 - alpha_next) * eps, clean
    if noise is None:
        raise ValueError(f"eta is {eta}; expected the noise that it scales.")
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    sigma = eta * jnp.sqrt(jnp.maximum(variance, 0.0))
    along = jnp.sqrt(jnp.maximum(1 - alpha_next - sigma**2, 0.0))
    return jnp.sqrt(alpha_next) * clean + along * eps + sigma * noise, clean


def sample(
    predict: Noise,
    x: jax.Array,
    steps: Table,
    *,
    eta: float = 0.0,
    key: jax.Array | None = None,
    project: Callable[[jax.Array, Any], jax.Array] | None = None,
) -> jax.Array:
    """Runs a table from its first step to its last, in one scan.

    Args:
      predict: ``(x, timestep) -> noise``; see ``guided``.
      x: ``[batch, ...]``, the noisy start.
      steps: such as ``table`` or ``inverse`` returns.
      eta: see ``step``.
      key: of the noise, where ``eta`` is not 0; folded with the number of the step.
      project: ``(x, alpha) -> x`` applied after each step, such as setting a region to
        a noised image.

    Raises:
      ValueError: if ``eta`` is not 0 and there is no key.
    """
    if eta and key is None:
        raise ValueError(f"eta is {eta}; expected a key for its noise.")

    def advance(x, row):
        number, timestep, alpha, alpha_next = row
        noise = None
        if eta and key is not None:
            noise = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
        eps = predict(x, timestep)
        x, _ = step(x, eps, alpha, alpha_next, eta=eta, noise=noise)
        return (x if project is None else project(x, alpha_next)), None

    rows = (jnp.arange(len(steps.timestep)), *map(jnp.asarray, steps))
    return jax.lax.scan(advance, x, rows)[0]


def guided(
    predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    context: jax.Array,
    unconditional: jax.Array,
    scale: float | jax.Array,
) -> Noise:
    """Makes a noise predictor with classifier-free guidance (arXiv 2207.12598).

    ``e = u + scale (c - u)``, from one call on both, the unconditional half first.

    Args:
      predict: ``(x, timestep, context) -> noise``.
      context: ``[batch, tokens, width]``.
      unconditional: the same, or broadcast to it.
      scale: of guidance.
    """
    both = jnp.concatenate([jnp.broadcast_to(unconditional, context.shape), context])

    def apply(x: jax.Array, timestep: jax.Array) -> jax.Array:
        without, given = jnp.split(predict(jnp.concatenate([x, x]), timestep, both), 2)
        return without + scale * (given - without)

    return apply
