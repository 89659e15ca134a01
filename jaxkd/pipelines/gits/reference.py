"""What the cells of a target share: latents, their exact ends, the GITS teacher."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.diffusion import frechet, samplers, schedules
from jaxkd.diffusion.search import gits
from jaxkd.pipelines.gits import config as gits_config
from jaxkd.pipelines.gits import models
from jaxkd.pipelines.gits.models import Denoiser, SampledModel


class Bench(NamedTuple):
    """What the cells of a target and a seed share.

    Attributes:
      target: what is sampled.
      seed: of the warm-up latents.
      denoise: its denoiser for a batch.
      warm_up: two batches of latents, for GITS and to fit and validate.
      held_out: batches of other latents.
      exact: where the fine solution takes them.
      grid: the sigmas that GITS picks from.
      costs: metric -> its cost matrix.
      summary: what is known of the target, plain data.
    """

    target: SampledModel
    seed: int
    denoise: Denoiser
    warm_up: list[jax.Array]
    held_out: list[jax.Array]
    exact: list[jax.Array]
    grid: np.ndarray
    costs: dict[str, np.ndarray]
    summary: dict[str, Any]


def prepare(
    config: ConfigDict, name: str, seed: int, workdir: str | Path = "."
) -> Bench:
    """Loads a target, solves the held-out latents finely and runs the GITS teacher."""
    target = models.load(config, name, workdir)
    config = gits_config.of_target(config, name)
    denoise, ends = target.denoise(config.batch), (target.sigma_min, target.sigma_max)
    first = 2 * config.batch * seed
    warm_up = _batches(config, target, first, 2)
    held_out = _batches(config, target, gits_config.HELD_OUT, config.blocks)
    exact = [solve(denoise, x, config.exact_sigmas, ends) for x in held_out]
    coarser = solve(denoise, held_out[0], config.exact_sigmas // 2 + 1, ends)
    grid = schedules.polynomial(config.gits.grid, *ends)
    summary = {
        "name": name,
        "about": target.about,
        "dimension": int(np.prod(target.shape)),
        "sigma_min": target.sigma_min,
        "sigma_max": target.sigma_max,
        "latents": config.batch * config.blocks,
        "batch": config.batch,
        # How far half as many sigmas end from where the errors are measured from.
        "reference_error": end_error(coarser, exact[0]),
        "frechet_exact": distance(target, exact),
    }
    costs = _costs(config, denoise, warm_up, grid)
    return Bench(target, seed, denoise, warm_up, held_out, exact, grid, costs, summary)


def solve(
    denoise: Denoiser,
    x: jax.Array,
    count: int,
    ends: tuple[float, float],
) -> jax.Array:
    """Solves the flow finely: exact Adams-Bashforth of order 4 on many sigmas."""
    return samplers.sample(denoise, x, fine(count, ends), "ab_v", 4).x[-1]


def fine(count: int, ends: tuple[float, float]) -> np.ndarray:
    """Returns sigmas for an accurate solution: time-quadratic where that is defined."""
    try:
        return schedules.time_uniform(count, *ends, 2.0)
    except ValueError:  # No such clock spans the range.
        return schedules.polynomial(count, *ends)


def end_error(ends: jax.Array, exact: jax.Array) -> float:
    """Returns the mean distance of samples, over the root of the dimension."""
    apart = np.asarray(ends - exact, np.float64).reshape(len(exact), -1)
    return float(np.linalg.norm(apart, axis=1).mean() / np.sqrt(apart.shape[1]))


def distance(target: SampledModel, ends: list[jax.Array]) -> float | None:
    """Returns the Fréchet distance of samples to the data, on their raw values."""
    if target.moments is None:
        return None
    samples = np.concatenate([np.asarray(x) for x in ends])
    return frechet.distance(frechet.moments(samples), target.moments)


def _batches(
    config: ConfigDict, target: SampledModel, first: int, count: int
) -> list[jax.Array]:
    starts = range(first, first + count * config.batch, config.batch)
    return [
        samplers.latents(
            range(start, start + config.batch), target.shape, target.sigma_max
        )
        for start in starts
    ]


def _costs(
    config: ConfigDict,
    denoise: Denoiser,
    warm_up: list[jax.Array],
    grid: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns the cost matrices, averaged over the warm-up batches."""
    sums = {metric: np.zeros((len(grid),) * 2) for metric in config.gits.metrics}
    for x in warm_up:
        run = samplers.sample(denoise, x, grid, "ipndm", 4, keep_denoised=True)
        for metric in sums:
            sums[metric] += gits.cost_matrix(run.x, run.denoised, grid, metric)
    return {metric: total / len(warm_up) for metric, total in sums.items()}
