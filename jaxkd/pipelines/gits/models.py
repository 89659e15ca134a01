"""What the sampling benchmark samples: densities, EDM models, networks trained here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core.errors import UserError
from jaxkd.diffusion import densities, frechet, noise_schedules
from jaxkd.diffusion.frechet import Moments

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


class Target(NamedTuple):
    """One thing to sample.

    Attributes:
      name: in tables and file names.
      about: one sentence.
      denoise: makes the denoiser for a number of samples.
      shape: of one sample.
      sigma_min: the last stamp.
      sigma_max: the first stamp.
      moments: of the data, or None where nobody knows them.
    """

    name: str
    about: str
    denoise: Callable[[int], Denoiser]
    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    moments: Moments | None


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


def names(config: ConfigDict) -> list[str]:
    """Lists the targets of a configuration, without loading them."""
    files = []
    if config.edm.path:
        stem = Path(config.edm.path).stem
        taken = {*DENSITIES, *config.needs}
        files = [f"edm-{stem}" if stem in taken else stem]
    return [*config.densities, *files, *config.needs]


def load(config: ConfigDict, name: str, workdir: str | Path = ".") -> Target:
    """Loads one of the targets of a configuration.

    Args:
      config: of the benchmark.
      name: one of ``names``.
      workdir: folder of the run, below which needed runs lie.

    Raises:
      UserError: if a model cannot be read or does not fit its settings.
    """
    if name in config.needs:
        from jaxkd.pipelines.gits import trained_models

        return trained_models.load(config, name, Path(workdir))
    if name not in config.densities:
        return _load_edm(config, name)
    density = DENSITIES[name]()
    return Target(
        name,
        density.about,
        lambda count: density.denoise,
        density.shape,
        config.sigma_min,
        config.sigma_max,
        density.moments,
    )


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


def _load_edm(config: ConfigDict, name: str) -> Target:
    from jaxkd.convert import edm

    settings = config.edm
    configuration, variables = edm.load(
        settings.path, precondition=settings.precondition
    )
    network = edm.build(configuration)
    shape = (network.img_resolution, network.img_resolution, network.in_channels)
    low, high = _trained_range(configuration)
    variables = jax.tree.map(jnp.asarray, variables)

    def denoise(count: int) -> Denoiser:
        labels = _labels(settings.label, network.label_dim, count)
        return edm.denoiser(configuration, variables, labels)

    return Target(
        name,
        f"{configuration.network}, images of {'×'.join(map(str, shape))}",
        denoise,
        shape,
        max(config.sigma_min, low),
        min(config.sigma_max, high),
        _reference(settings.reference, int(np.prod(shape))),
    )


def _trained_range(configuration: Any) -> tuple[float, float]:
    """Returns the least and the largest sigma of a preconditioning."""
    options = dict(configuration.precondition_options)
    match configuration.precondition:
        case "vp":
            clock = noise_schedules.LinearBeta(
                options.get("beta_d", 19.9), options.get("beta_min", 0.1)
            )
            return float(clock.sigma(1e-5)), float(clock.sigma(1.0))
        case "ve":
            return 0.02, 100.0
        case "iddpm":
            sigmas = noise_schedules.iddpm_sigmas(int(options.get("steps", 1000)))
            used = np.asarray(sigmas)[np.asarray(sigmas) > 0]
            return float(used.min()), float(used.max())
        case _:
            return 0.002, 80.0


def _labels(label: int, classes: int, count: int) -> jax.Array | None:
    if classes == 0:
        if label >= 0:
            raise UserError(
                f"config.edm.label is {label}, but the model has no classes; expected -1."
            )
        return None
    if label >= classes:
        raise UserError(
            f"config.edm.label is {label}, expected a class below {classes}, or -1 for "
            "all in turn."
        )
    chosen = np.arange(count) % classes if label < 0 else np.full(count, label)
    return jax.nn.one_hot(jnp.asarray(chosen), classes)


def _reference(path: str, size: int) -> Moments | None:
    if not path:
        return None
    try:
        found = frechet.read(path)
    except (OSError, ValueError) as error:
        raise UserError(f"config.edm.reference: {error}") from error
    if found.mean.shape != (size,) or found.covariance.shape != (size, size):
        raise UserError(
            f"config.edm.reference: {path} has a mean of shape {found.mean.shape}, "
            f"expected [{size}], over the raw pixels of the model's images in [-1, 1]. "
            "Moments of Inception features, for FID, are no use here."
        )
    return found
