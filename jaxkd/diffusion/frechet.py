"""Fréchet distance between Gaussians of the same mean and covariance as the samples.

On the features of Inception-v3 this is FID (arXiv 1706.08500); on raw pixels, or any
other features, it is not, and has to be labelled as what it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core.arrays import read_npz
from jaxkd.core.errors import UserError


class Moments(NamedTuple):
    """Mean ``[d]`` and covariance ``[d, d]``, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def distance(one: Moments, other: Moments) -> float:
    """Returns ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` (arXiv 1706.08500, eq. 6).

    Raises:
      ValueError: if the moments are of different dimensions.
    """
    shapes = [part.shape for part in (*one, *other)]
    size = shapes[0][:1]
    if shapes != [size, size * 2] * 2:
        raise ValueError(
            f"Means and covariances of shape {', '.join(map(str, shapes))}; expected "
            "[d] and [d, d] twice."
        )
    # The root of C C' has the trace of that of C^(1/2) C' C^(1/2), which is symmetric.
    values, axes = np.linalg.eigh(one.covariance)
    half = axes * np.sqrt(np.clip(values, 0, None))
    product = np.linalg.eigvalsh(half.T @ other.covariance @ half)
    overlap = np.sqrt(np.clip(product, 0, None)).sum()
    apart = np.sum((one.mean - other.mean) ** 2)
    spread = np.trace(one.covariance) + np.trace(other.covariance)
    # Equal moments leave rounding of either sign.
    return max(float(apart + spread - 2 * overlap), 0.0)


def moments(
    samples: np.ndarray, features: Callable[[np.ndarray], np.ndarray] | None = None
) -> Moments:
    """Measures the moments of samples or of their features.

    Args:
      samples: ``[n, ...]``, at least two.
      features: ``samples -> [n, d]``, such as a network's; None for the raw values.

    Raises:
      ValueError: if there are fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} samples have no covariance; expected two.")
    found = samples if features is None else features(samples)
    flat = np.asarray(found, np.float64).reshape(len(samples), -1)
    return Moments(flat.mean(axis=0), np.atleast_2d(np.cov(flat, rowvar=False)))


def of_mixture(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> Moments:
    """Returns the exact moments of a Gaussian mixture.

    Args:
      weights: ``[k]``, need not sum to 1.
      means: ``[k, *shape]``.
      covariances: ``[k, d, d]``, or diagonals ``[k, d]``.
    """
    weights = np.asarray(weights, np.float64) / np.sum(weights)
    means = np.asarray(means, np.float64).reshape(len(weights), -1)
    covariances = np.asarray(covariances, np.float64)
    if covariances.ndim == 2:
        covariances = np.stack([np.diag(values) for values in covariances])
    mean = weights @ means
    within = np.einsum("k,kij->ij", weights, covariances)
    return Moments(mean, within + (weights * (means - mean).T) @ (means - mean))


def read(path: str | Path) -> Moments:
    """Reads reference moments from an ``.npz`` file with ``mu`` and ``sigma``.

    The published reference statistics of EDM are of this kind, of Inception features.

    Raises:
      ValueError: if the file holds no such arrays.
    """
    remedy = "Expected the arrays mu [d] and sigma [d, d]."
    try:
        arrays = read_npz(path, "reference moments", remedy)
        return Moments(
            arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
        )
    except KeyError as error:
        raise ValueError(
            f"{path} holds {', '.join(arrays) or 'nothing'}. {remedy}"
        ) from error
    except UserError as error:
        raise ValueError(str(error)) from error
