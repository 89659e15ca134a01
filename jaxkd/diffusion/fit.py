"""The schedule fitted to its solver: Levenberg-Marquardt on the stamps themselves.

A search on local errors, such as ``gits``, knows nothing of how a multistep solver
carries errors on. Here the student is rolled out as it will be used, and its distance
to a fine teacher's end is lowered over the logarithms of the inner stamps, a problem
of few unknowns and many residuals. It needs no gradient of the model: one column of
the Jacobian is a rollout with one stamp moved.

A schedule fitted for one solver, order and number of stamps is not good for others.
"""

from collections.abc import Callable, Iterator
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.diffusion import gits, schedules, solvers
from jaxkd.diffusion.samplers import sample
from jaxkd.diffusion.schedules import Schedule

STEPS = 10  # Accepted ones at most, from each start.
TRIES = 7
GITS_CHOICES = (("dev", 1.0), ("dev", 1.1), ("l2", 1.0), ("l2", 1.1))

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


def search(
    denoise: Denoiser,
    x_fit: jax.Array,
    x_valid: jax.Array,
    stamps: int,
    *,
    solver: str = "ipndm",
    order: int = 4,
    reference: np.ndarray,
    starts: int = 3,
) -> Schedule:
    """Fits the stamps of a solver to the ends of a fine trajectory.

    Candidates to start from are the polynomial, geometric, time-uniform and
    time-quadratic schedules (these two where they span the range) and the best of four
    by GITS. What is returned is the best on ``x_valid`` of all candidates and of all
    schedules on the way from the ``starts`` best of them, so that it is never worse
    there than a candidate.

    Where a rollout takes K evaluations, a start takes about ``4 K^2 + 6 K`` for each
    sample of ``x_fit`` (four Jacobians and ten steps) and ``10 K`` for each of
    ``x_valid``.

    Args:
      denoise: ``(x, sigma) -> x0``.
      x_fit: ``[batch, ...]`` latents at ``reference[0]`` to fit on; 128 do.
      x_valid: ``[batch, ...]`` others, to choose by.
      stamps: of the schedule, both ends counted.
      solver: of the student; the teacher's is iPNDM of order 4.
      order: of the solver.
      reference: ``[T]`` decreasing sigmas, the teacher's stamps and the grid of GITS;
        the schedule has the same ends. 61 are plenty.
      starts: number of candidates to start from.

    Returns:
      The schedule, and as ``details`` the arguments, ``errors`` of the candidates and
      ``error`` of the schedule (the mean distance to the teacher's ends on
      ``x_valid``, over the root of the dimension), ``start``, the candidate it came
      from, and ``calls``, the model calls spent.

    Raises:
      ValueError: if latents do not match, there are more stamps than in the reference
        or fewer than two, or no starts; or as ``samplers.sample``.
    """
    reference = schedules.explicit(reference)
    _check(x_fit, x_valid, stamps, reference, starts)
    solvers.make(solver, reference, order)  # To refuse it before the teacher runs.
    fitted, valid = (
        _Student(denoise, x, solver, order, reference) for x in (x_fit, x_valid)
    )
    candidates = _candidates(fitted, reference, stamps)
    ranked = sorted(candidates, key=lambda k: _mean_norm(fitted(candidates[k])))
    errors = {name: _mean_norm(valid(candidates[name])) for name in ranked}
    start = min(errors, key=lambda name: errors[name])
    best, error = candidates[start], errors[start]
    for name in ranked[:starts]:
        for sigmas in _descend(fitted, candidates[name]):
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
    return Schedule(best, details=MappingProxyType(details))


class _Student:
    """Rolls schedules out on fixed latents, and counts the model calls."""

    def __init__(self, denoise, x, solver, order, reference):
        self.arguments = denoise, solver, order
        self.teacher = sample(denoise, x, reference, keep_denoised=True)
        self.calls = self.teacher.nfe * len(x)

    def __call__(self, sigmas: np.ndarray) -> np.ndarray:
        """Returns how far the student ends from the teacher, float64 ``[batch, d]``."""
        denoise, solver, order = self.arguments
        x = self.teacher.x
        run = sample(denoise, x[0], sigmas, solver, order)
        self.calls += run.nfe * x.shape[1]
        return np.asarray(run.x[-1] - x[-1], np.float64).reshape(x.shape[1], -1)

    @property
    def rounding(self) -> float:
        """An error per dimension below which differences mean nothing."""
        x = self.teacher.x
        return 10 * float(jnp.finfo(x.dtype).eps) * float(jnp.std(x[0]))


def _candidates(student, reference, stamps) -> dict[str, np.ndarray]:
    ends = reference[-1], reference[0]
    made = {
        "polynomial": schedules.polynomial(stamps, *ends),
        "logsnr": schedules.logsnr(stamps, *ends),
    }
    for name, rho in (("time-uniform", 1.0), ("time-quadratic", 2.0)):
        try:
            made[name] = schedules.time_uniform(stamps, *ends, rho)
        except ValueError:  # No such clock spans the range.
            continue
    teacher, planned = student.teacher, {}
    for metric, coeff in GITS_CHOICES:
        cost = gits.cost_matrix(teacher.x, teacher.denoised, reference, metric)
        planned[metric, coeff] = reference[gits.plan(cost, stamps, coeff)]
    best = min(planned, key=lambda choice: _mean_norm(student(planned[choice])))
    return made | {"gits": planned[best]}


def _descend(student: _Student, sigmas: np.ndarray) -> Iterator[np.ndarray]:
    """Yields schedules of ever smaller error on the student's latents."""
    logs, residual = np.log(sigmas), student(sigmas)
    error, damping, small, age = _mean_norm(residual), 0.01, 0, 0
    jacobian = None
    for _ in range(STEPS if len(logs) > 2 else 0):
        if error <= student.rounding or small == 2:
            return
        for attempt in range(TRIES):
            # Between, updates of rank one do; a failure asks for the truth.
            if jacobian is None or age == 3 or (attempt == 2 and age):
                jacobian, age = _jacobian(student, logs, residual), 0
            move = _bounded(_step(jacobian, residual, damping), logs)
            trial = logs + np.concatenate([[0.0], move, [0.0]])
            reached = student(_stamps(trial, sigmas))
            if _mean_norm(reached) < error:
                break
            damping = 6 * max(damping, 1e-3)
        else:
            return
        damping, age = max(damping / 6, 1e-5), age + 1
        jacobian = _updated(jacobian, reached - residual, move)
        small = small + 1 if _mean_norm(reached) > 0.997 * error else 0
        logs, residual, error = trial, reached, _mean_norm(reached)
        yield _stamps(logs, sigmas)


def _jacobian(student, logs: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Returns ``[batch, d, stamps - 2]`` by moving one inner stamp at a time."""
    columns = []
    for j in range(1, len(logs) - 1):
        moved = logs.copy()
        width = min(0.02, 0.2 * min(-np.diff(logs)[j - 1 : j + 1]))
        moved[j] += width
        columns.append((student(_stamps(moved, np.exp(logs))) - residual) / width)
    return np.stack(columns, axis=-1)


def _step(jacobian, residual, damping) -> np.ndarray:
    """Returns the damped Gauss-Newton step for the mean norm of the residuals."""
    norms = np.linalg.norm(residual, axis=1)
    # Weights that make the sum of squares one of norms, not too steep at zero.
    weights = 1 / (norms + 0.1 * norms.mean())
    weighted = jacobian * weights[:, None, None]
    matrix = np.einsum("bdj,bdk->jk", weighted, jacobian, optimize=True)
    slope = np.einsum("bdj,bd->j", weighted, residual)
    # Least squares, as a stamp that changes nothing leaves a row of zeros.
    damped = matrix + damping * np.diag(np.diag(matrix))
    return -np.linalg.lstsq(damped, slope, rcond=None)[0]


def _bounded(move: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Returns a step that uses up no more than 0.4 of any gap from either side."""
    gaps = -np.diff(logs)
    return np.clip(move, -0.4 * gaps[1:], 0.4 * gaps[:-1])


def _updated(jacobian, change, move) -> np.ndarray:
    """Returns Broyden's update: the least change that explains the last step."""
    missed = (change - jacobian @ move)[..., None]
    return jacobian + missed * (move / (move @ move))


def _stamps(logs: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Returns stamps from logarithms, the ends exactly those of ``sigmas``."""
    return np.concatenate([sigmas[:1], np.exp(logs[1:-1]), sigmas[-1:]])


def _mean_norm(residual: np.ndarray) -> float:
    norms = np.linalg.norm(residual, axis=1)
    return float(norms.mean() / np.sqrt(residual.shape[1]))


def _check(x_fit, x_valid, stamps, reference, starts):
    if np.ndim(x_fit) < 2 or np.shape(x_fit)[1:] != np.shape(x_valid)[1:]:
        raise ValueError(
            f"Latents to fit of shape {np.shape(x_fit)} and to validate of shape "
            f"{np.shape(x_valid)}; wanted both [batch, ...] of one sample shape."
        )
    if not 2 <= stamps <= len(reference):
        raise ValueError(
            f"{stamps} stamps with a reference of {len(reference)}; wanted at least 2 "
            "and no more than the reference has."
        )
    if starts < 1:
        raise ValueError(f"starts={starts}; wanted at least 1.")
