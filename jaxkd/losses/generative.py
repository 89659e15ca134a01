"""Likelihoods and reconstruction errors of generative pre-training; pair losses.

Sums over the pixels or latents of one example, never over the batch.
"""

import math

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import Scalar
from jaxkd.losses.numerics import at_least_float32


def gaussian_kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Computes ``KL(N(mean, exp(log_variance)) || N(0, 1))``, summed over latents.

    ``-1/2 sum(1 + lv - mean^2 - exp(lv))``: the closed form of the Monte-Carlo estimate
    that VAE code sometimes draws, with the same expectation and no variance.

    Args:
      mean: ``[batch, ...]``.
      log_variance: ``[batch, ...]``, of the same shape.

    Returns:
      ``[batch]``, in nats, never negative but for rounding.

    Raises:
      ValueError: if shapes do not fit.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114),
    appendix B.

    >>> gaussian_kl(jnp.ones((1, 2)), jnp.zeros((1, 2))).tolist()
    [1.0]
    """
    _check_same(mean, log_variance, "mean", "log_variance")
    mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
    # expm1 keeps what exp(lv) - 1 - lv loses near zero.
    terms = jnp.expm1(log_variance) - log_variance + mean**2
    return 0.5 * _sum(terms)


def gaussian_log_likelihood(
    x: jax.Array, mean: jax.Array, log_scale: Scalar
) -> jax.Array:
    """Computes ``log N(x; mean, exp(log_scale)^2)``, summed over an example's values.

    Args:
      x: ``[batch, ...]``.
      mean: ``[batch, ...]``, of the same shape.
      log_scale: logarithm of the standard deviation, broadcast against them.

    Returns:
      ``[batch]``, in nats.

    Raises:
      ValueError: if shapes do not fit.

    >>> x = jnp.zeros((1, 2))
    >>> gaussian_log_likelihood(x, x, 0.0).round(4).tolist()  # -log(2 pi)
    [-1.837...]
    """
    _check_same(x, mean, "x", "mean")
    x, mean = at_least_float32(x), at_least_float32(mean)
    scaled = (x - mean) * jnp.exp(-log_scale)
    return -_sum(0.5 * scaled**2 + log_scale + 0.5 * math.log(2 * math.pi))


def patch_error(predicted: jax.Array, target: jax.Array, where: jax.Array) -> jax.Array:
    """Computes the mean squared error over the chosen patches of each image.

    Args:
      predicted: ``[batch, patches, values]``.
      target: ``[batch, patches, values]``, which gets no gradient.
      where: boolean ``[batch, patches]``; an image without a chosen patch gives 0.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners"
    (arXiv:2111.06377), section 3.

    >>> predicted, target = jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 3))
    >>> patch_error(predicted, target, jnp.array([[True, False]])).tolist()
    [1.0]
    """
    _check_same(predicted, target, "predicted", "target")
    if jnp.shape(where) != jnp.shape(predicted)[:2]:
        raise ValueError(
            f"where has shape {jnp.shape(where)}, expected [batch, patches] = "
            f"{jnp.shape(predicted)[:2]}."
        )
    target = jax.lax.stop_gradient(at_least_float32(target))
    errors = jnp.mean((at_least_float32(predicted) - target) ** 2, axis=-1)
    count = jnp.sum(where, axis=-1)
    return jnp.sum(jnp.where(where, errors, 0), axis=-1) / jnp.maximum(count, 1)


def contrastive_margin(
    distance: jax.Array, same: jax.Array, *, margin: Scalar = 2.0
) -> jax.Array:
    """Computes the contrastive loss of pairs: pulls the same, pushes others apart.

    ``1/2 d^2`` for pairs of the same class and ``1/2 max(0, margin - d)^2`` for others.

    Args:
      distance: ``[...]``, not negative; differentiated.
      same: boolean ``[...]``.
      margin: beyond which pairs of different classes cost nothing.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.

    Source: Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping",
    CVPR 2006, equation 4. The code of arXiv:2405.18320 uses the labels the other way
    round, which pushes the same writer's samples apart.

    >>> d, same = jnp.array([1.0, 1.0]), jnp.array([True, False])
    >>> contrastive_margin(d, same, margin=3.0).tolist()
    [0.5, 2.0]
    """
    if jnp.shape(distance) != jnp.shape(same):
        raise ValueError(
            f"distance has shape {jnp.shape(distance)} and same {jnp.shape(same)}, "
            "expected equal ones."
        )
    distance = at_least_float32(distance)
    apart = jnp.maximum(margin - distance, 0)
    return 0.5 * jnp.where(same, distance**2, apart**2)


def _sum(terms: jax.Array) -> jax.Array:
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def _check_same(a, b, first: str, second: str) -> None:
    if jnp.shape(a) != jnp.shape(b) or jnp.ndim(a) < 2:
        raise ValueError(
            f"{first} has shape {jnp.shape(a)} and {second} {jnp.shape(b)}, expected "
            "[batch, ...] for both, and equal."
        )
