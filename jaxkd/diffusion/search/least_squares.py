"""The schedule fitted to its solver: Levenberg-Marquardt on the sigmas themselves.

A search on local errors, such as ``gits``, knows nothing of how a multistep solver
carries errors on. Here the student is rolled out as it will be used, and its distance
to a fine teacher's end is lowered over the logarithms of the inner sigmas, a problem
of few unknowns and many residuals. It needs no gradient of the model: one column of
the Jacobian is a rollout with one sigma moved. Where the model can be differentiated
forward, all columns may come from one call instead.

A schedule fitted for one solver, order and number of sigmas is not good for others.

With offsets, what the denoiser is told of the noise is fitted too: another K unknowns,
which lower the error further, but ask the denoiser about noise that is not there. Look
at the samples before relying on them with a trained network.
"""

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxkd.diffusion import schedules, solvers
from jaxkd.diffusion.schedules import Schedule
from jaxkd.diffusion.search import gits
from jaxkd.diffusion.search.rollout import Rollout, free_indices, jacobian, unpack

STEPS = 10  # Accepted ones at most, from each start.
TRIES = 7
SPACING = 1e-4  # Of the logarithms of two num_sigmas, below which none is moved.
MOST, FARTHEST = 0.15, 0.5  # An offset's change in one step, and its size.
GITS_CHOICES = (("dev", 1.0), ("dev", 1.1), ("l2", 1.0), ("l2", 1.1))
# (rho, knee) of saturating schedules, of which the best two are candidates.
SATURATING = ((1.5, 0.3), (1.5, 1.0), (2.0, 1.0), (2.0, 3.0), (3.0, 3.0), (5.0, 10.0))

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


def fit(
    denoise: Denoiser,
    x_fit: jax.Array,
    x_valid: jax.Array,
    num_sigmas: int,
    *,
    solver: str = "ipndm",
    order: int = 4,
    reference: np.ndarray,
    starts: int = 3,
    offsets: bool = False,
    forward: bool = False,
) -> Schedule:
    """Fits the sigmas of a solver to the ends of a fine trajectory.

    Candidates to start from are the polynomial, geometric, time-uniform and
    time-quadratic schedules (these two where they span the range), the best two of six
    saturating ones, and the best of four by GITS. What is returned is the best on
    ``x_valid`` of all candidates and of all schedules on the way from the ``starts``
    best of them, so that it is never worse there than a candidate.

    Where a rollout takes K evaluations, a start takes about ``4 K^2 + 6 K`` for each
    sample of ``x_fit`` (four Jacobians and ten steps) and ``10 K`` for each of
    ``x_valid``.

    Args:
      denoise: ``(x, sigma) -> x0``.
      x_fit: ``[batch, ...]`` latents at ``reference[0]`` to fit on; 128 do.
      x_valid: ``[batch, ...]`` others, to choose by.
      num_sigmas: of the schedule, both ends counted.
      solver: of the student; the teacher's is iPNDM of order 4.
      order: of the solver.
      reference: ``[T]`` decreasing sigmas, the teacher's and the grid of GITS;
        the schedule has the same ends. 61 are plenty.
      starts: number of candidates to start from.
      offsets: whether to go on with ``add_offsets``.
      forward: whether to differentiate the rollout by JAX's forward mode instead of
        moving one unknown at a time: all columns at once, in as many times the memory.

    Returns:
      The schedule, and as ``details`` the arguments, ``errors`` of the candidates and
      ``error`` of the schedule (the mean distance to the teacher's ends on
      ``x_valid``, over the root of the dimension), ``start``, the candidate it came
      from, and ``calls``, the model calls spent.

    Raises:
      ValueError: if latents do not match, there are more sigmas than in the reference
        or fewer than two, or no starts; or as ``samplers.sample``.
    """
    reference = schedules.explicit(reference)
    _check(x_fit, x_valid, num_sigmas, reference, starts)
    solvers.make(solver, reference, order)  # To refuse it before the teacher runs.
    fitted, valid = (
        Rollout(denoise, x, solver, order, reference, forward) for x in (x_fit, x_valid)
    )
    candidates = _candidates(fitted, reference, num_sigmas)
    ranked = sorted(candidates, key=lambda k: _mean_norm(fitted(candidates[k])))
    errors = {name: _mean_norm(valid(candidates[name])) for name in ranked}
    start = min(errors, key=lambda name: errors[name])
    best, error = candidates[start], errors[start]
    for name in ranked[:starts]:
        for sigmas, _ in _descend(fitted, candidates[name]):
            reached = _mean_norm(valid(sigmas))
            if reached < error:
                best, error, start = sigmas, reached, name
    details = {
        "solver": solver,
        "order": order,
        "reference": reference.tolist(),
        "starts": starts,
        "start": start,
        "errors": errors,
        "error": error,
        "calls": fitted.calls + valid.calls,
    }
    made = Schedule(best, details=MappingProxyType(details))
    return _with_offsets(made, fitted, valid) if offsets else made


def add_offsets(
    denoise: Denoiser,
    x_fit: jax.Array,
    x_valid: jax.Array,
    schedule: Schedule,
    *,
    solver: str = "ipndm",
    order: int = 4,
    reference: np.ndarray,
    forward: bool = False,
) -> Schedule:
    """Fits offsets to a schedule, and its sigmas anew along with them.

    Where a rollout takes K evaluations, this takes about ``8 K^2 + 6 K`` for each
    sample of ``x_fit`` and ``10 K`` for each of ``x_valid``.

    Args:
      denoise: as in ``search``, and so are the others.
      x_fit: latents to fit on.
      x_valid: others, to choose by.
      schedule: such as ``search`` returns; its ends are those of the reference.
      solver: of the student, with one evaluation a step.
      order: of the solver.
      reference: the teacher's sigmas.
      forward: how to differentiate.

    Returns:
      The best on ``x_valid`` of the schedule without offsets and of all on the way;
      ``details`` as they were, with ``error``, ``error_before`` and ``calls`` added up.

    Raises:
      ValueError: as ``search``.
    """
    reference = schedules.explicit(reference)
    _check(x_fit, x_valid, len(schedule.sigmas), reference, 1)
    fitted, valid = (
        Rollout(denoise, x, solver, order, reference, forward) for x in (x_fit, x_valid)
    )
    found = _with_offsets(schedule, fitted, valid)
    before = schedule.details.get("calls", 0)
    details = dict(found.details) | {"calls": before + fitted.calls + valid.calls}
    return found._replace(details=MappingProxyType(details))


def _with_offsets(schedule: Schedule, fitted, valid) -> Schedule:
    sigmas = schedule.sigmas
    offsets: np.ndarray | None = np.zeros(len(sigmas) - 1)
    before = error = _mean_norm(valid(sigmas, offsets))
    for moved, shifts in _descend(fitted, schedule.sigmas, offsets=True):
        reached = _mean_norm(valid(moved, shifts))
        if reached < error:
            sigmas, offsets, error = moved, shifts, reached
    details = dict(schedule.details) | {
        "error": error,
        "error_before": before,
        "calls": fitted.calls + valid.calls,
    }
    return Schedule(sigmas, None, None, MappingProxyType(details), offsets)


def _candidates(student, reference, num_sigmas) -> dict[str, np.ndarray]:
    ends = reference[-1], reference[0]
    made = {
        "polynomial": schedules.polynomial(num_sigmas, *ends),
        "logsnr": schedules.logsnr(num_sigmas, *ends),
    }
    for name, rho in (("time-uniform", 1.0), ("time-quadratic", 2.0)):
        try:
            made[name] = schedules.time_uniform(num_sigmas, *ends, rho)
        except ValueError:  # No such clock spans the range.
            continue
    family = {
        f"saturating {rho:g} {knee:g}": schedules.saturating(
            num_sigmas, *ends, rho, knee
        )
        for rho, knee in SATURATING
    }
    teacher, planned = student.teacher, {}
    for metric, coeff in GITS_CHOICES:
        cost = gits.cost_matrix(teacher.x, teacher.denoised, reference, metric)
        planned[metric, coeff] = reference[gits.plan(cost, num_sigmas, coeff)]
    (best,) = _best_of(student, planned, 1)
    made |= {name: family[name] for name in _best_of(student, family, 2)}
    return made | {"gits": planned[best]}


def _best_of(student, sigmas: dict[Any, np.ndarray], count: int) -> list[Any]:
    """Returns the keys of the schedules of least error, the least first."""
    errors = {
        key: _mean_norm(student(one)) if student.is_steady(one) else np.inf
        for key, one in sigmas.items()
    }
    return sorted(errors, key=lambda key: errors[key])[:count]


def _descend(
    student: Rollout, sigmas: np.ndarray, offsets: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yields sigmas, and offsets if asked for, of ever smaller error."""
    # Logarithms of the sigmas, the ends too, and then the offsets.
    theta = np.append(np.log(sigmas), np.zeros(len(sigmas) - 1 if offsets else 0))
    residual = student(*unpack(theta, sigmas))
    error, damping, small, age = _mean_norm(residual), 0.01, 0, 0
    matrix = None
    for _ in range(STEPS if len(theta) > 2 else 0):
        if error <= student.rounding or small == 2:
            return
        for attempt in range(TRIES):
            # Between, updates of rank one do; a failure asks for the truth.
            if matrix is None or age == 3 or (attempt == 2 and age):
                matrix, age = jacobian(student, theta, residual, sigmas), 0
            move = _bounded(_step(matrix, residual, damping), theta, len(sigmas))
            trial = theta.copy()
            trial[free_indices(theta, sigmas)] += move
            if student.is_steady(unpack(trial, sigmas)[0]):
                reached = student(*unpack(trial, sigmas))
                if _mean_norm(reached) < error:
                    break
            damping = 6 * max(damping, 1e-3)
        else:
            return
        damping, age = max(damping / 6, 1e-5), age + 1
        matrix = _updated(matrix, reached - residual, move)
        small = small + 1 if _mean_norm(reached) > 0.997 * error else 0
        theta, residual, error = trial, reached, _mean_norm(reached)
        yield unpack(theta, sigmas)


def _step(jacobian, residual, damping) -> np.ndarray:
    """Returns the damped Gauss-Newton step for the mean norm of the residuals."""
    norms = np.linalg.norm(residual, axis=1)
    # Weights that make the sum of squares one of norms, not too steep at zero.
    weights = 1 / (norms + 0.1 * norms.mean())
    weighted = jacobian * weights[:, None, None]
    matrix = np.einsum("bdj,bdk->jk", weighted, jacobian, optimize=True)
    slope = np.einsum("bdj,bd->j", weighted, residual)
    # Least squares, as a sigma that changes nothing leaves a row of zeros.
    damped = matrix + damping * np.diag(np.diag(matrix))
    return -np.linalg.lstsq(damped, slope, rcond=None)[0]


def _bounded(move: np.ndarray, theta: np.ndarray, count: int) -> np.ndarray:
    """Returns a step that uses up no more than 0.4 of any gap from either side."""
    gaps, offsets = np.maximum(-np.diff(theta[:count]) - SPACING, 0), theta[count:]
    inner = np.clip(move[: count - 2], -0.4 * gaps[1:], 0.4 * gaps[:-1])
    low = np.maximum(-MOST, -FARTHEST - offsets)
    high = np.minimum(MOST, FARTHEST - offsets)
    return np.append(inner, np.clip(move[count - 2 :], low, high))


def _updated(jacobian, change, move) -> np.ndarray:
    """Returns Broyden's update: the least change that explains the last step."""
    missed = (change - jacobian @ move)[..., None]
    return jacobian + missed * (move / (move @ move))


def _mean_norm(residual: np.ndarray) -> float:
    norms = np.linalg.norm(residual, axis=1)
    return float(norms.mean() / np.sqrt(residual.shape[1]))


def _check(x_fit, x_valid, num_sigmas, reference, starts):
    if np.ndim(x_fit) < 2 or np.shape(x_fit)[1:] != np.shape(x_valid)[1:]:
        raise ValueError(
            f"Latents to fit of shape {np.shape(x_fit)} and to validate of shape "
            f"{np.shape(x_valid)}; expected both [batch, ...] of one sample shape."
        )
    if not 2 <= num_sigmas <= len(reference):
        raise ValueError(
            f"{num_sigmas} sigmas with a reference of {len(reference)}; expected at "
            "least 2 and no more than the reference has."
        )
    if starts < 1:
        raise ValueError(f"starts={starts}; expected at least 1.")
