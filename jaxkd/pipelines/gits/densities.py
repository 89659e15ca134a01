"""Densities in closed form, as models of the sampling benchmark."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd.diffusion import densities, frechet
from jaxkd.diffusion.frechet import Moments

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


class SampledModel(NamedTuple):
    """One thing to sample.

    Attributes:
      name: in tables and file names.
      about: one sentence.
      denoise: makes the denoiser for a number of samples.
      shape: of one sample.
      sigma_min: the last sigma.
      sigma_max: the first sigma.
      moments: of the data, or None where nobody knows them.
      network: where the weights are from, and they; None of a density.
    """

    name: str
    about: str
    denoise: Callable[[int], Denoiser]
    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    moments: Moments | None
    network: tuple[str, Any] | None = None


class Density(NamedTuple):
    """A density in closed form: its denoiser, sample shape and moments."""

    about: str
    denoise: Denoiser
    shape: tuple[int, ...]
    moments: Moments


def digits() -> Density:
    """A Gaussian for each class of scikit-learn's digits, pixels in [-1, 1]."""
    images, labels = _digit_images()
    parts = densities.mixture_of_classes(images, labels)
    return _mixture("8x8 digits, a full-covariance Gaussian for each class", *parts)


def digits_kde() -> Density:
    """The digits under a Gaussian kernel of standard deviation 0.1."""
    images, _ = _digit_images()
    width, flat = 0.1, images.reshape(len(images), -1)
    spread = np.cov(flat, rowvar=False, bias=True) + width**2 * np.eye(flat.shape[1])
    return Density(
        "8x8 digits under a Gaussian kernel of width 0.1",
        densities.kde(images, width),
        images.shape[1:],
        Moments(flat.mean(axis=0), spread),
    )


def glyphs() -> Density:
    """A Gaussian for each of ten drawn characters, averaged to 8 x 8 grey pixels."""
    from jaxkd.drawing import glyphs as glyph_images

    labels = np.tile(np.arange(10) * 10, 200)
    drawn = glyph_images.draw_images(jax.random.key(0), labels, 16)
    grey = np.asarray(drawn, np.float64).mean(axis=-1) / 127.5 - 1
    small = grey.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4))[..., None]
    parts = densities.mixture_of_classes(small, labels)
    return _mixture("8x8 drawn characters, a Gaussian for each of ten", *parts)


def ring() -> Density:
    """Eight narrow Gaussians on a circle in the plane."""
    angles = 2 * np.pi * np.arange(8) / 8
    means = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    about = "a ring of eight Gaussians in two dimensions"
    return _mixture(about, np.ones(8), means, np.full((8, 2), 0.05**2))


def gaussian() -> Density:
    """One Gaussian in 256 dimensions, with variances from 1 down to 1e-4."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(256, 256)))[0]
    covariance = (axes * np.geomspace(1, 1e-4, 256)) @ axes.T
    mean = 0.5 * rng.normal(size=(1, 256))
    about = "a full-covariance Gaussian in 256 dimensions"
    return _mixture(about, np.ones(1), mean, covariance[None])


DENSITIES: dict[str, Callable[[], Density]] = {
    "digits": digits,
    "digits_kde": digits_kde,
    "glyphs": glyphs,
    "ring": ring,
    "gaussian": gaussian,
}


def _mixture(about: str, weights: Any, means: Any, covariances: Any) -> Density:
    return Density(
        about,
        densities.mixture(weights, means, covariances),
        means.shape[1:],
        frechet.of_mixture(weights, means, covariances),
    )


def _digit_images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images[..., None] / 8 - 1, data.target
