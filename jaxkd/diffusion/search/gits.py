"""GITS: the schedule of least summed local error, by dynamic programming.

A fine teacher trajectory of a small warm-up batch tells what one Euler step from any
of its sigmas to any later one would cost; the best ``K`` steps through the grid are
then a shortest path (Chen et al., "On the Trajectory Regularity of ODE-based
Diffusion Sampling", ICML 2024, arXiv 2405.11326, algorithm 1). It needs no training,
and as many model calls as the warm-up batch has samples times grid steps.

As in the published code, the teacher has a solver of its own, whatever the schedule is
for. Unlike there, it never takes an analytical first step, which would bias its first
slope, and the warm-up latents are the caller's, so that a schedule can be found again.
"""

import warnings
from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.diffusion import schedules, solvers
from jaxkd.diffusion.samplers import sample
from jaxkd.diffusion.schedules import Schedule

METRICS = ("dev", "l1", "l2")
# What ``coeff="auto"`` chooses from.
AUTO_METRICS = ("dev", "l2")
AUTO_COEFFS = (0.9, 1.0, 1.05, 1.1, 1.15, 1.2)

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


def search(
    denoise: Denoiser,
    x_init: jax.Array,
    grid: np.ndarray,
    num_sigmas: int,
    *,
    metric: str = "dev",
    coeff: float | str = 1.15,
    solver: str = "ipndm",
    order: int = 4,
    teacher_solver: str = "ipndm",
    teacher_order: int = 4,
    afs: bool = False,
) -> Schedule:
    """Searches the sigmas of a grid for the best schedule.

    Args:
      denoise: ``(x, sigma) -> x0``.
      x_init: ``[batch, ...]`` warm-up latents at ``grid[0]``; 256 in the paper.
      grid: ``[T]`` decreasing sigmas; 61 of ``schedules.polynomial`` there.
      num_sigmas: of the schedule, both ends counted.
      metric: ``dev`` (how much farther from the chord than the teacher), ``l1`` or
        ``l2`` (distance to the teacher).
      coeff: above 1, errors at low noise count more; 1.15 for pixels and 1.2 for
        latents in the paper. ``"auto"`` chooses it, and the metric too, by sampling
        the second half of the warm-up batch with costs from the first.
      solver: of the students that ``coeff="auto"`` and ``afs`` sample: the one that
        the schedule is for.
      order: of that solver.
      teacher_solver: of the teacher, whose trajectory the costs are measured on.
      teacher_order: of the teacher's solver.
      afs: whether the schedule is for sampling with an analytical first step: it then
        has one sigma more if there is room for one after the first, at the place the
        solver likes best.

    Returns:
      The schedule, its indices in the grid, the cost matrix it was planned on, and as
      ``details`` the arguments and ``calls``, the model calls spent.

    Raises:
      ValueError: for an unknown metric, a grid that does not decrease or has fewer
        points than sigmas, or as ``samplers.sample``.
    """
    grid = schedules.explicit(grid)
    _check_search(metric, coeff, grid, num_sigmas)
    solvers.make(solver, grid, order)  # To refuse it before the teacher runs.
    teacher = sample(
        denoise, x_init, grid, teacher_solver, teacher_order, keep_denoised=True
    )
    calls = teacher.nfe * len(x_init)
    student = partial(_end_error, denoise, teacher.x, grid, solver, order)
    if coeff == "auto":
        metric, coeff, spent = _choose(teacher, grid, num_sigmas, student)
        calls += spent
    elif metric == "dev":
        _warn_of_few_dimensions(teacher.x[0, 0].size)
    cost = cost_matrix(teacher.x, teacher.denoised, grid, metric)
    indices = plan(cost, num_sigmas, float(coeff))
    if afs:
        indices, spent = _with_first_sigma(indices, student)
        calls += spent
    details = {
        "grid": grid.tolist(),
        "metric": metric,
        "coeff": coeff,
        "solver": solver,
        "order": order,
        "teacher_solver": teacher_solver,
        "teacher_order": teacher_order,
        "afs": afs,
        "calls": calls,
    }
    return Schedule(grid[indices], indices, cost, MappingProxyType(details))


def cost_matrix(
    x: jax.Array, denoised: jax.Array | None, grid: np.ndarray, metric: str = "dev"
) -> np.ndarray:
    """Returns what an Euler step from each sigma of a trajectory to each later costs.

    Args:
      x: ``[T, batch, ...]``, the teacher's states.
      denoised: ``[T - 1, batch, ...]``, the denoiser's outputs there.
      grid: ``[T]``.
      metric: ``dev``, ``l1`` or ``l2``.

    Returns:
      Float64 ``[T, T]``, averaged over the batch; entry ``[i, j]`` for i < j, else 0.
      By ``dev`` it may be slightly negative.

    Raises:
      ValueError: for an unknown metric or shapes that do not fit.
    """
    grid = schedules.explicit(grid)
    if metric not in METRICS:
        raise ValueError(f"No metric {metric!r}; there are {', '.join(METRICS)}.")
    shape = None if denoised is None else denoised.shape
    if denoised is None or len(x) != len(grid) or shape != x[1:].shape:
        raise ValueError(
            f"States {x.shape} and outputs {shape} for {len(grid)} sigmas; expected a "
            "trajectory sampled with keep_denoised=True on that grid."
        )
    rows = _cost_rows(x, denoised, jnp.asarray(grid, x.dtype), metric)
    return np.triu(np.pad(np.asarray(rows, np.float64), ((0, 1), (0, 0))), 1)


def plan(cost: np.ndarray, num_sigmas: int, coeff: float = 1.15) -> np.ndarray:
    """Plans the cheapest path through a cost matrix.

    Args:
      cost: ``[T, T]``, entry ``[i, j]`` the cost of a step from i to j > i.
      num_sigmas: of the path, both ends counted.
      coeff: the k-th step counts ``coeff^(k-1)`` times.

    Returns:
      ``[num_sigmas]`` strictly increasing indices from 0 to T - 1. Of equal paths, the
      one whose first differing sigma is the smaller.

    Raises:
      ValueError: if the matrix is not square and finite above the diagonal, there are
        more sigmas than points or fewer than two, or coeff is not positive.
    """
    cost = np.asarray(cost, np.float64)
    _check_cost(cost)
    points, steps = len(cost), num_sigmas - 1
    _check_path(points, num_sigmas, coeff)
    allowed = np.triu(np.ones((points, points), bool), 1)
    allowed[:, -1] = False  # Only the last step ends there.
    value, choices = cost[:, -1].copy(), []
    value[-1] = np.inf
    for _ in range(steps - 1):
        through = np.where(allowed, cost + coeff * value, np.inf)
        choices.append(np.argmin(through, axis=1))
        value = through.min(axis=1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return np.array([*path, points - 1], np.int64)


def path_cost(cost: np.ndarray, indices: np.ndarray, coeff: float = 1.15) -> float:
    """Returns what ``plan`` minimises: the weighted cost of a path."""
    steps = np.asarray(cost, np.float64)[indices[:-1], indices[1:]]
    return float(steps @ coeff ** np.arange(len(steps)))


@partial(jax.jit, static_argnames="metric")
def _cost_rows(
    x: jax.Array, denoised: jax.Array, grid: jax.Array, metric: str
) -> jax.Array:
    """Returns ``[T - 1, T]``; the entries on and below the diagonal mean nothing."""
    x = x.reshape(*x.shape[:2], -1)
    denoised = denoised.reshape(*denoised.shape[:2], -1)
    known = _deviation(x, x)

    def row(start):
        state, clean, sigma = start
        ratio = (grid / sigma)[:, None, None]
        reached = ratio * state + (1 - ratio) * clean  # [T, batch, d]
        if metric == "dev":
            return jnp.mean(_deviation(reached, x) - known, axis=1)
        distance = jnp.abs(reached - x)
        if metric == "l1":
            return jnp.mean(jnp.sum(distance, axis=-1), axis=1)
        return jnp.mean(jnp.sqrt(jnp.sum(distance**2, axis=-1)), axis=1)

    # One row at a time: all of them would be T times the trajectory.
    return jax.lax.map(row, (x[:-1], denoised, grid[:-1]))


def _deviation(points: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the distance of points ``[T, batch, d]`` from their sample's chord."""
    chord = x[-1] - x[0]
    chord = chord / jnp.sqrt(jnp.sum(chord**2, axis=-1, keepdims=True))
    rest = x[-1] - points
    rest = rest - jnp.sum(rest * chord, axis=-1, keepdims=True) * chord
    # The end is on the chord, and the teacher's last point is the end.
    return jnp.sqrt(jnp.sum(rest**2, axis=-1))


def _end_error(denoise, teacher, grid, solver, order, indices, start=0, afs=False):
    """Returns a student's mean distance to the teacher's end, and the calls spent.

    The students are the samples of the batch from ``start`` on.
    """
    states = teacher[:, start:]
    run = sample(denoise, states[0], grid[indices], solver, order, afs)
    apart = (run.x[-1] - states[-1]).reshape(states.shape[1], -1)
    error = float(jnp.mean(jnp.sqrt(jnp.sum(apart**2, axis=1))))
    return error, run.nfe * states.shape[1]


def _choose(teacher, grid, num_sigmas, student):
    """Returns the metric and coefficient of the least held-out error, and calls."""
    half = teacher.x.shape[1] // 2
    if half == 0:
        raise ValueError("coeff='auto' wants at least two warm-up latents, got one.")
    errors, spent = {}, 0
    x, denoised = teacher.x[:, :half], teacher.denoised[:, :half]
    for metric in AUTO_METRICS:
        cost = cost_matrix(x, denoised, grid, metric)
        for coeff in AUTO_COEFFS:
            error, calls = student(plan(cost, num_sigmas, coeff), start=half)
            errors[metric, coeff] = error
            spent += calls
    return *min(errors, key=lambda pair: errors[pair]), spent


def _with_first_sigma(indices, student):
    """Returns indices with the best second sigma inserted, and the calls spent."""
    errors, spent = {}, 0
    for second in range(1, int(indices[1])):
        error, calls = student(np.insert(indices, 1, second), afs=True)
        errors[second] = error
        spent += calls
    if not errors:
        return indices, 0
    return np.insert(indices, 1, min(errors, key=lambda k: errors[k])), spent


def _warn_of_few_dimensions(size: int) -> None:
    if size < 16:
        warnings.warn(
            "The deviation metric cannot see errors along the chord, which matters in "
            f"{size} dimensions; use metric='l2'.",
            stacklevel=3,
        )


def _check_search(metric, coeff, grid, num_sigmas):
    if metric not in METRICS:
        raise ValueError(f"No metric {metric!r}; there are {', '.join(METRICS)}.")
    if isinstance(coeff, str) and coeff != "auto":
        raise ValueError(f"coeff={coeff!r}; expected a positive number or 'auto'.")
    _check_path(len(grid), num_sigmas, 1.0 if isinstance(coeff, str) else coeff)


def _check_path(points, num_sigmas, coeff):
    if not 2 <= num_sigmas <= points:
        raise ValueError(
            f"{num_sigmas} sigmas of a grid of {points} points; expected at least 2 "
            "and no more than the points. Take a finer grid or fewer sigmas."
        )
    if not 0 < coeff < np.inf:
        raise ValueError(f"coeff={coeff:g}; expected a positive number.")


def _check_cost(cost):
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"A cost matrix of shape {cost.shape}; expected [T, T].")
    if not np.all(np.isfinite(np.triu(cost, 1))):
        raise ValueError(
            "The cost matrix holds NaN or infinity above its diagonal; check the "
            "trajectory it was made from."
        )
