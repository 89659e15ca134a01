"""Densities whose denoiser is known in closed form, to test samplers where truth is.

The best denoiser of data noised to level sigma is ``E[x0 | x]``. For Gaussians, their
mixtures and finite sets of points (with or without a kernel) it is a formula, so that
the probability-flow equation has an exact right side and no network stands between a
sampler and its error. Each function makes a denoiser ``denoise(x, sigma) -> x0`` for
``x`` of ``[batch, *shape]`` and sigma a scalar or ``[batch]``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxkd.diffusion.denoisers import expand

HIGHEST = jax.lax.Precision.HIGHEST  # Accelerators else round products to bfloat16.


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Partial:
    """Makes the denoiser of a Gaussian: ``mu + U diag(l / (l + s^2)) U'(x - mu)``.

    Args:
      mean: ``[*shape]``.
      covariance: ``[d, d]`` over the flattened shape, or its diagonal ``[d]``.
    """
    return mixture(np.ones(1), np.asarray(mean)[None], np.asarray(covariance)[None])


def gaussian_path(
    mean: np.ndarray,
    covariance: np.ndarray,
    x: np.ndarray,
    sigma: float,
    to_sigma: float,
) -> np.ndarray:
    """Returns where the exact flow of a Gaussian takes ``x`` from sigma to another.

    Along each principal axis it scales by ``sqrt((l + to_sigma^2) / (l + sigma^2))``.
    """
    values, axes = _spectrum(np.asarray(covariance, np.float64))
    flat = (np.asarray(x, np.float64) - mean).reshape(len(x), -1) @ axes
    flat = flat * np.sqrt((values + to_sigma**2) / (values + sigma**2)) @ axes.T
    return mean + flat.reshape(np.shape(x))


def mixture(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Partial:
    """Makes the denoiser of a Gaussian mixture: each component's, by responsibility.

    Args:
      weights: ``[k]``, need not sum to 1.
      means: ``[k, *shape]``.
      covariances: ``[k, d, d]`` over the flattened shape, or diagonals ``[k, d]``.

    Raises:
      ValueError: if the shapes do not fit or a covariance is not positive.
    """
    weights, means = np.asarray(weights, np.float64), np.asarray(means, np.float64)
    covariances = np.asarray(covariances, np.float64)
    count, size = len(means), int(np.prod(means.shape[1:]))
    shapes = ((count, size), (count, size, size))
    if weights.shape != (count,) or covariances.shape not in shapes:
        raise ValueError(
            f"A mixture of weights {weights.shape}, means {means.shape} and "
            f"covariances {covariances.shape}; expected [k], [k, *shape] and [k, d] or "
            "[k, d, d], d the size of the shape."
        )
    values, axes = (
        np.stack(part) for part in zip(*map(_spectrum, covariances), strict=True)
    )
    if not (values.min() >= 0 and weights.min() > 0):
        raise ValueError(
            "A mixture wants positive weights and covariances without negative "
            f"variances; got weights down to {weights.min():g} and variances down to "
            f"{values.min():g}."
        )
    return Partial(
        _mixture,
        jnp.log(weights),
        jnp.asarray(means),
        jnp.asarray(values),
        None if covariances.ndim == 2 else jnp.asarray(axes),
    )


def mixture_of_classes(
    data: np.ndarray, labels: np.ndarray, jitter: float = 1e-3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits a Gaussian to each class, for ``mixture``.

    Args:
      data: ``[n, *shape]``.
      labels: ``[n]``, with at least two examples of each that occurs.
      jitter: added to the diagonal of the covariances.

    Returns:
      Weights ``[k]``, means ``[k, *shape]`` and covariances ``[k, d, d]``.
    """
    groups = [np.asarray(data)[labels == label] for label in np.unique(labels)]
    flat = [group.reshape(len(group), -1) for group in groups]
    floor = jitter * np.eye(flat[0].shape[1])
    return (
        np.array([len(group) / len(data) for group in groups]),
        np.stack([group.mean(axis=0) for group in groups]),
        np.stack([np.cov(group, rowvar=False) + floor for group in flat]),
    )


def empirical(data: np.ndarray) -> Partial:
    """Makes the denoiser of a finite set of points, ``[n, *shape]``.

    Of one point it is constant, and every solver is exact.
    """
    return kde(data, 0.0)


def kde(data: np.ndarray, bandwidth: float) -> Partial:
    """Makes the denoiser of points under a Gaussian kernel.

    ``m + h^2 / (s^2 + h^2) (x - m)``, m the mean of the points weighted by
    ``exp(-|x - y|^2 / (2 (s^2 + h^2)))`` (arXiv 2405.11326, section 3).

    Args:
      data: ``[n, *shape]``.
      bandwidth: standard deviation h of the kernel.
    """
    data = np.asarray(data, np.float64)
    centre = data.mean(axis=0)
    return Partial(
        _kde, jnp.asarray(centre), jnp.asarray(data - centre), float(bandwidth)
    )


def _spectrum(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns variances ``[d]`` and axes ``[d, d]`` of a covariance or a diagonal."""
    if covariance.ndim == 1:
        return covariance, np.eye(len(covariance))
    values, axes = np.linalg.eigh(covariance)
    # Rounding may leave a singular covariance a little below zero.
    return np.where(np.abs(values) < 1e-12 * values[-1], 0.0, values), axes


def _mixture(log_weights, means, values, axes, x, sigma):
    _check_shape(x, means.shape[1:])
    flat = x.reshape(len(x), -1)
    means, values = (a.reshape(len(a), -1).astype(x.dtype) for a in (means, values))
    noisy = values + jnp.reshape(expand(sigma, flat) ** 2, (-1, 1, 1))
    away = flat[:, None] - means  # [batch, k, d]
    if axes is not None:
        axes = axes.astype(x.dtype)
        away = jnp.einsum("bkd,kde->bke", away, axes, precision=HIGHEST)
    scores = jnp.sum(away**2 / noisy + jnp.log(noisy), axis=-1)
    share = jax.nn.softmax(log_weights.astype(x.dtype) - 0.5 * scores, axis=-1)
    shrunk = share[..., None] * away * (values / noisy)
    if axes is None:
        moved = jnp.sum(shrunk, axis=1)
    else:
        moved = jnp.einsum("bke,kde->bd", shrunk, axes, precision=HIGHEST)
    mean = jnp.dot(share, means, precision=HIGHEST)
    return (mean + moved).reshape(x.shape)


def _kde(centre, data, bandwidth, x, sigma):
    _check_shape(x, centre.shape)
    flat = (x - centre.astype(x.dtype)).reshape(len(x), -1)
    points = data.reshape(len(data), -1).astype(x.dtype)
    variance = expand(sigma, flat) ** 2 + bandwidth**2
    # The square of x is the same for all points, and so drops out of the weights.
    near = jnp.dot(flat, points.T, precision=HIGHEST) - 0.5 * jnp.sum(points**2, 1)
    share = jax.nn.softmax(near / variance, axis=-1)
    mean = jnp.dot(share, points, precision=HIGHEST)
    moved = mean + bandwidth**2 / variance * (flat - mean)
    return centre.astype(x.dtype) + moved.reshape(x.shape)


def _check_shape(x: jax.Array, shape: tuple[int, ...]) -> None:
    if x.shape[1:] != shape:
        raise ValueError(
            f"Latents of shape {x.shape} for a density over {shape}; expected "
            f"[batch, {', '.join(map(str, shape))}]."
        )
