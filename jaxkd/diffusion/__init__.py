"""Deterministic diffusion sampling with few model calls, usable alone.

- ``samplers``: ``sample(denoise, x_init, sigmas, solver) -> Trajectory``.
- ``solvers``: the solvers by name; made in ``single_step``, ``adams`` and
  ``exponential`` in the common form of ``recurrence``.
- ``schedules``: where to stop on the way from noise to data; JSON in and out.
- ``gits``: the schedule searched by dynamic programming.
- ``fit``: fits a schedule to its solver by least squares (``search.least_squares``).
- ``denoisers``: preconditioning of networks, classifier-free guidance, call counting.
- ``densities``: denoisers in closed form, to measure errors where truth is known.
- ``geometry``: the shape of trajectories.
- ``frechet``: the distance between samples' moments and the data's.
- ``noise_schedules``: clocks of variance-preserving models.
"""

from jaxkd.diffusion import (
    denoisers,
    densities,
    frechet,
    geometry,
    noise_schedules,
    samplers,
    schedules,
    solvers,
)
from jaxkd.diffusion.samplers import Trajectory, integrate, latents, sample
from jaxkd.diffusion.schedules import Schedule
from jaxkd.diffusion.search import gits
from jaxkd.diffusion.search.least_squares import fit

__all__ = (
    "Schedule",
    "Trajectory",
    "denoisers",
    "densities",
    "fit",
    "frechet",
    "geometry",
    "gits",
    "integrate",
    "latents",
    "noise_schedules",
    "sample",
    "samplers",
    "schedules",
    "solvers",
)
