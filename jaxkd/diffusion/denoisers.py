"""Denoisers made of trained networks: preconditioning and guidance.

A network ``network(x, c_noise) -> F`` takes scaled latents ``[batch, ...]`` (channels
last) and a noise condition ``[batch]``. Each function here turns one into a denoiser
``denoise(x, sigma) -> x0`` with sigma a scalar or ``[batch]``, by the formula

    x0 = c_skip(sigma) x + c_out(sigma) network(c_in(sigma) x, c_noise(sigma))

(arXiv 2206.00364, table 1), whatever noise clock the network was trained on.

What is made is a ``jax.tree_util.Partial``: if the network is one too, say
``Partial(apply, params)``, its parameters stay arguments of compiled functions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxkd.diffusion import noise_schedules

Network = Callable[[jax.Array, jax.Array], jax.Array]
Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


def edm(network: Network, sigma_data: float = 0.5) -> Partial:
    """Makes the denoiser of an EDM network, trained on sigma 0.002 to 80."""
    return Partial(_edm, _argument(network), sigma_data, 0.25)


def consistency(network: Network, sigma_data: float = 0.5) -> Partial:
    """Makes the denoiser of an EDM teacher of consistency models (arXiv 2303.01469).

    As ``edm`` with the noise condition scaled by 1000; it is not the boundary
    condition of the consistency model itself.
    """
    return Partial(_edm, _argument(network), sigma_data, 250.0)


def vp(
    network: Network,
    clock: noise_schedules.LinearBeta | None = None,
    steps: int = 1000,
) -> Partial:
    """Makes the denoiser of a noise-predicting network with linear beta.

    Its range is ``clock.sigma(1e-5)`` to ``clock.sigma(1)``.

    Args:
      network: told the time ``(steps - 1) t``.
      clock: by default beta from 0.1 to 20.
      steps: of training.
    """
    clock = noise_schedules.LinearBeta() if clock is None else clock
    return Partial(_vp, _argument(network), clock, steps)


def ve(network: Network) -> Partial:
    """Makes the denoiser of a variance-exploding network, for sigma 0.02 to 100."""
    return Partial(_ve, _argument(network))


def iddpm(network: Network, steps: int = 1000) -> Partial:
    """Makes the denoiser of an improved-DDPM network (arXiv 2102.09672).

    The network may predict a variance too: only the first half of its channels, as
    many as the latents have, is used. Its range is that of ``noise.iddpm_sigmas``
    without the last, which is zero.
    """
    return Partial(
        _iddpm, _argument(network), jnp.asarray(noise_schedules.iddpm_sigmas(steps))
    )


def discrete(
    network: Network, clock: noise_schedules.TableClock | None = None
) -> Partial:
    """Makes the denoiser of a noise-predicting network trained at discrete times.

    Latent diffusion and Stable Diffusion are of this kind; its range is
    ``clock.sigma(1 / steps)`` to ``clock.sigma(1)``.

    Args:
      network: told the time ``steps t - 1``, that is 0 to ``steps - 1``.
      clock: the table; by default Stable Diffusion's.
    """
    clock = noise_schedules.stable_diffusion_clock() if clock is None else clock
    return Partial(_discrete, _argument(network), clock)


def guided(
    denoise: Callable[[jax.Array, jax.Array, Any], jax.Array],
    condition: Any,
    unconditional: Any = None,
    scale: float = 1.0,
) -> Partial:
    """Makes a denoiser with classifier-free guidance (arXiv 2207.12598).

    ``x0 = u + scale (c - u)`` with c and u the conditional and the unconditional
    output, from one call on a batch of both; guiding the noise is the same, as it is
    linear in x0. With scale 1 or nothing unconditional, c alone is computed.

    Args:
      denoise: ``(x, sigma, condition) -> x0``, sigma ``[batch]``.
      condition: arrays ``[batch, ...]``.
      unconditional: likewise, or None.
      scale: strength of guidance.
    """
    denoise = _argument(denoise)
    if unconditional is None or scale == 1:
        return Partial(_conditional, denoise, condition)
    both = jax.tree.map(
        lambda u, c: jnp.concatenate([jnp.broadcast_to(u, jnp.shape(c)), c]),
        unconditional,
        condition,
    )
    return Partial(_guided, denoise, both, scale)


class Calls:
    """What a counted denoiser was asked to do.

    Attributes:
      calls: evaluations.
      samples: evaluations times their batch size.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.samples = 0

    def wait(self) -> "Calls":
        """Waits until all work that was started is counted; returns itself."""
        jax.effects_barrier()
        return self


def counted(denoise: Denoiser) -> tuple[Partial, Calls]:
    """Makes a denoiser that counts its evaluations, also inside compiled functions."""
    calls = Calls()
    return Partial(partial(_counted, calls), _argument(denoise)), calls


def expand(sigma: jax.Array, x: jax.Array) -> jax.Array:
    """Returns sigma, a scalar or ``[batch]``, shaped to multiply ``x`` sample-wise.

    Raises:
      ValueError: if sigma has another shape.
    """
    sigma = jnp.asarray(sigma, x.dtype)
    if sigma.ndim == 0:
        return sigma
    if sigma.shape != x.shape[:1]:
        raise ValueError(
            f"sigma of shape {sigma.shape} for latents of shape {x.shape}; expected a "
            f"scalar or [{x.shape[0]}]."
        )
    return sigma.reshape(-1, *(1,) * (x.ndim - 1))


def _argument(function: Callable[..., jax.Array]) -> Partial:
    """Makes a function an argument of compiled functions, arrays bound to it included.

    A Partial of a Partial would hide the arrays of the inner one as constants.
    """
    return function if isinstance(function, Partial) else Partial(function)


def _edm(network, sigma_data, log_scale, x, sigma):
    s = expand(sigma, x)
    total = s**2 + sigma_data**2
    output = network(x / jnp.sqrt(total), _batch(log_scale * jnp.log(s), x))
    return (sigma_data**2 / total) * x + (s * sigma_data / jnp.sqrt(total)) * output


def _vp(network, clock, steps, x, sigma):
    s = expand(sigma, x)
    condition = (steps - 1) * clock.time(s, jnp)
    return _from_noise(network, condition, x, s)


def _ve(network, x, sigma):
    s = expand(sigma, x)
    return x + s * network(x, _batch(jnp.log(s / 2), x))


def _iddpm(network, sigmas, x, sigma):
    s = expand(sigma, x)
    nearest = jnp.argmin(jnp.abs(s[..., None] - sigmas), axis=-1)
    condition = len(sigmas) - 2 - nearest
    return _from_noise(network, condition.astype(x.dtype), x, s)


def _discrete(network, clock, x, sigma):
    s = expand(sigma, x)
    condition = len(clock.log_alpha) * clock.time(s, jnp) - 1
    return _from_noise(network, condition, x, s)


def _from_noise(network, condition, x, s):
    """Returns the clean data of a network that predicts the noise."""
    output = network(x / jnp.sqrt(s**2 + 1), _batch(condition, x))
    return x - s * output[..., : x.shape[-1]]


def _batch(condition: jax.Array, x: jax.Array) -> jax.Array:
    """Returns a condition that was shaped to multiply x as ``[batch]``."""
    return jnp.broadcast_to(condition.reshape(-1).astype(x.dtype), x.shape[:1])


def _conditional(denoise, condition, x, sigma):
    return denoise(x, jnp.broadcast_to(sigma, x.shape[:1]), condition)


def _guided(denoise, both, scale, x, sigma):
    sigmas = jnp.broadcast_to(sigma, x.shape[:1])
    twice = denoise(jnp.concatenate([x, x]), jnp.concatenate([sigmas, sigmas]), both)
    unconditional, conditional = jnp.split(twice, 2)
    return unconditional + scale * (conditional - unconditional)


def _counted(calls, denoise, x, sigma):
    def count() -> None:
        calls.calls += 1
        calls.samples += len(x)

    jax.debug.callback(count)
    return denoise(x, sigma)
