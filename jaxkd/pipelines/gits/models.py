"""Models of the sampling benchmark: densities, EDM files, networks trained here."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core.errors import UserError
from jaxkd.diffusion import frechet, noise_schedules
from jaxkd.diffusion.frechet import Moments
from jaxkd.pipelines.gits import trained_models
from jaxkd.pipelines.gits.densities import DENSITIES, Denoiser, SampledModel


def names(config: ConfigDict) -> list[str]:
    """Lists the targets of a configuration, without loading them."""
    files = []
    if config.edm.path:
        stem = Path(config.edm.path).stem
        taken = {*DENSITIES, *config.needs}
        files = [f"edm-{stem}" if stem in taken else stem]
    return [*config.densities, *files, *config.needs]


def load(config: ConfigDict, name: str, workdir: str | Path = ".") -> SampledModel:
    """Loads one of the targets of a configuration.

    Args:
      config: of the benchmark.
      name: one of ``names``.
      workdir: folder of the run, below which needed runs lie.

    Raises:
      UserError: if a model cannot be read or does not fit its settings.
    """
    if name in config.needs:
        return trained_models.load(config, name, Path(workdir))
    if name not in config.densities:
        return _load_edm(config, name)
    density = DENSITIES[name]()
    return SampledModel(
        name,
        density.about,
        lambda count: density.denoise,
        density.shape,
        config.sigma_min,
        config.sigma_max,
        density.moments,
    )


def _load_edm(config: ConfigDict, name: str) -> SampledModel:
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

    return SampledModel(
        name,
        f"{configuration.network}, images of {'×'.join(map(str, shape))}",
        denoise,
        shape,
        max(config.sigma_min, low),
        min(config.sigma_max, high),
        _reference(settings.reference, int(np.prod(shape))),
        (settings.path, variables),
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
                f"config.edm.label is {label}, but the model has no classes; expected "
                "-1."
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
