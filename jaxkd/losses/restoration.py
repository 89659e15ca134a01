"""Losses of super-resolution: between knowledge maps, latents, and two players.

See ``jaxkd.losses`` for the shared conventions.
"""

import jax
import jax.numpy as jnp

from jaxkd.losses.numerics import at_least_float32, check_same_shape


def knowledge_distance(
    student: jax.Array, teacher: jax.Array, gates: jax.Array
) -> jax.Array:
    """Computes the gated distance between two networks' knowledge maps (MKD).

    ``sum over g of mean(gate_g |K_s^g - K_t^g|)``, where the gates share every pixel
    among ``g`` kinds of texture. Made after "Meta Knowledge Distillation for single
    image super-resolution" (arXiv:2207.08356), whose exact formula we do not know. The
    gates are differentiated: their network is trained by it.

    Args:
      student: ``[batch, height, width, kinds, channels]``.
      teacher: the same shape; not differentiated.
      gates: ``[batch, height, width, kinds]``, which sum to 1 over the kinds.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.

    >>> import jax.numpy as jnp
    >>> maps = jnp.ones((1, 2, 2, 2, 3))
    >>> gates = jnp.full((1, 2, 2, 2), 0.5)
    >>> float(knowledge_distance(maps, 3 * maps, gates)[0])
    2.0
    """
    check_same_shape(student, teacher)
    if jnp.ndim(student) != 5 or jnp.shape(gates) != jnp.shape(student)[:-1]:
        raise ValueError(
            f"maps have shape {jnp.shape(student)} and gates {jnp.shape(gates)}, "
            "expected [batch, height, width, kinds, channels] and the same without "
            "channels."
        )
    t = jax.lax.stop_gradient(at_least_float32(teacher))
    apart = jnp.abs(at_least_float32(student) - t)
    weighted = at_least_float32(gates)[..., None] * apart
    return jnp.sum(jnp.mean(weighted, axis=(1, 2, 4)), axis=-1)


def score_distillation(
    latents: jax.Array, student_noise: jax.Array, teacher_noise: jax.Array
) -> jax.Array:
    """Computes a loss whose gradient moves latents along a difference of scores.

    ``mean((e_s - e_t) z)`` with the difference held constant, so that its gradient with
    respect to ``z`` is ``(e_s - e_t) / size``. With both noises predicted by a frozen
    teacher, of the noised student's and of the noised teacher's latent, it is the
    high-frequency-enhanced score distillation of TAD-SR (arXiv:2408.07476, equation 9);
    with the true noise in place of ``e_t``, score distillation (arXiv:2209.14988).

    The value itself means nothing; only its gradient does.

    Args:
      latents: ``z``, ``[batch, ...]``.
      student_noise: ``e_s``, the same shape; not differentiated.
      teacher_noise: ``e_t``, likewise.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes differ.

    >>> import jax, jax.numpy as jnp
    >>> z, e = jnp.ones((1, 4)), jnp.array([[0.0, 4.0, 8.0, 0.0]])
    >>> jax.grad(lambda z: score_distillation(z, e, 0 * e)[0])(z).tolist()
    [[0.0, 1.0, 2.0, 0.0]]
    """
    check_same_shape(latents, student_noise)
    check_same_shape(latents, teacher_noise)
    change = at_least_float32(student_noise) - at_least_float32(teacher_noise)
    product = jax.lax.stop_gradient(change) * at_least_float32(latents)
    return jnp.mean(product, axis=tuple(range(1, product.ndim)))


def hinge_discriminator(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Computes the hinge loss of a discriminator.

    ``mean(max(0, 1 - D(real))) + mean(max(0, 1 + D(fake)))`` over a sample's logits
    (Lim and Ye, arXiv:1705.02894).

    Args:
      real: logits of real samples, ``[batch, ...]``.
      fake: those of generated ones, ``[batch, ...]``.

    Returns:
      ``[batch]``.

    >>> import jax.numpy as jnp
    >>> hinge_discriminator(jnp.array([[2.0, 0.0]]), jnp.array([[-1.0, 1.0]])).tolist()
    [1.5]
    """
    return _row_mean(jax.nn.relu(1 - at_least_float32(real))) + _row_mean(
        jax.nn.relu(1 + at_least_float32(fake))
    )


def hinge_generator(fake: jax.Array) -> jax.Array:
    """Computes the loss of a generator against a hinge discriminator, ``-mean D``.

    Args:
      fake: logits of generated samples, ``[batch, ...]``.

    Returns:
      ``[batch]``.

    >>> import jax.numpy as jnp
    >>> hinge_generator(jnp.array([[2.0, 0.0]])).tolist()
    [-1.0]
    """
    return -_row_mean(at_least_float32(fake))


def _row_mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
