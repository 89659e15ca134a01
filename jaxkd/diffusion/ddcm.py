"""DDCM: edits a real image without inverting it (InfEdit, arXiv 2312.04965).

A source and a target latent go from noise to data side by side. The source's noise is
known exactly, since its clean image is given; the target is corrected by the difference
of the two predictions.
"""

import jax
import jax.numpy as jnp


def step(
    x_source: jax.Array,
    x_target: jax.Array,
    eps_source: jax.Array,
    eps_target: jax.Array,
    x0: jax.Array,
    noise: jax.Array,
    alpha: jax.Array,
    alpha_next: jax.Array,
    *,
    eta: float | jax.Array = 1.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Does one step of the denoising diffusion consistent model.

        e_c = (x_s - sqrt(a) x0) / sqrt(1 - a)
        x0' = x0 + ((x_t - x_s) - sqrt(1 - a) (e_t - e_s)) / sqrt(a)
        dir = sqrt((1 - a') (1 - eta)) (e_t - e_s + e_c)
        x_t = sqrt(a') x0' + dir + sqrt(eta (1 - a')) noise
        x_s = sqrt(a') x0  + dir + sqrt(eta (1 - a')) noise

    This form of ``x0'`` equals eq. 4 of ParallelEdits (arXiv 2406.00985),
    ``(x_t - sqrt(1 - a) (e_t - e_s + e_c)) / sqrt(a)``, and returns ``x0`` to the last
    bit where source and target agree. For a schedule of one step the edited image is
    ``x0'``, as after the last step of a longer one.

    Args:
      x_source: noisy latents of the source ``[..., height, width, channels]``.
      x_target: noisy latents of the target.
      eps_source: noise predicted for the source.
      eps_target: noise predicted for the target.
      x0: clean latents of the source.
      noise: Gaussian, shared by both.
      alpha: share of the signal in the noisy latents, a scalar.
      alpha_next: share in the results.
      eta: 0 to 1, share of fresh noise.

    Returns:
      The source's and the target's next latents, and the clean target predicted.

    Example:
      >>> x, e, n = jnp.ones(3), jnp.full(3, 0.5), jnp.zeros(3)
      >>> source, target, clean = step(x, x, e, e, 2 * x, n, 0.5, 0.8, eta=1.0)
      >>> bool((source == target).all()), bool((clean == 2 * x).all())
      (True, True)
    """
    consistent = (x_source - jnp.sqrt(alpha) * x0) / jnp.sqrt(1 - alpha)
    difference = eps_target - eps_source
    moved = (x_target - x_source) - jnp.sqrt(1 - alpha) * difference
    clean = x0 + moved / jnp.sqrt(alpha)
    fresh = eta * (1 - alpha_next)
    shared = jnp.sqrt((1 - alpha_next) - fresh) * (difference + consistent)
    shared = shared + jnp.sqrt(fresh) * noise
    root = jnp.sqrt(alpha_next)
    return root * x0 + shared, root * clean + shared, clean
