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
- ``export``: schedules for the samplers of diffusers and ComfyUI, also as a command.
- ``noise_schedules``: clocks of variance-preserving models.
- ``noise_tables``: signal levels of discrete-time models.
- ``ddim``, ``consistency``, ``ddcm``, ``lms``: samplers of discrete-time models, as
  steps and as one scan over a table.
- ``attention_control``: attention of several prompts combined by pure functions.
"""

from jaxkd.diffusion import (
    attention_control,
    consistency,
    ddcm,
    ddim,
    denoisers,
    densities,
    frechet,
    geometry,
    lms,
    noise_schedules,
    noise_tables,
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
    "attention_control",
    "consistency",
    "ddcm",
    "ddim",
    "denoisers",
    "densities",
    "fit",
    "frechet",
    "geometry",
    "gits",
    "integrate",
    "latents",
    "lms",
    "noise_schedules",
    "noise_tables",
    "sample",
    "samplers",
    "schedules",
    "solvers",
)
