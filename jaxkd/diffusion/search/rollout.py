"""A solver rolled out on fixed latents, as a function of its sigmas, and its slopes.

The unknowns are one vector: the logarithms of the sigmas, and after them the offsets
(``samplers.sample``) if there are any. The first and the last sigma stay.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxkd.diffusion import samplers, solvers
from jaxkd.diffusion.solvers.recurrence import Recurrence

WIDTH = 0.02  # By which an unknown is moved, at most.


class Rollout:
    """Rolls schedules out on fixed latents, and counts the model calls.

    Attributes:
      teacher: the trajectory whose end the student is to reach.
      calls: model calls so far, each of one sample; in forward mode a column counts as
        a rollout.
      forward: whether slopes come from forward-mode differentiation.
    """

    def __init__(self, denoise, x, solver, order, reference, forward=False):
        self.arguments = denoise, solver, order
        self.forward = forward
        self.teacher = samplers.sample(denoise, x, reference, keep_denoised=True)
        self.calls = self.teacher.nfe * len(x)

    def __call__(
        self, sigmas: np.ndarray, offsets: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns how far the student ends from the teacher, float64 ``[batch, d]``."""
        x = self.teacher.x
        run = samplers.integrate(
            self.arguments[0], x[0], self.recurrence(sigmas, offsets)
        )
        self.calls += run.nfe * x.shape[1]
        return np.asarray(run.x[-1] - x[-1], np.float64).reshape(x.shape[1], -1)

    def recurrence(
        self, sigmas: np.ndarray, offsets: np.ndarray | None = None
    ) -> Recurrence:
        """Returns the solver on a schedule, steady or not."""
        _, solver, order = self.arguments
        made = solvers.make(solver, sigmas, order, steady=False)
        return made if offsets is None else samplers.shifted(made, offsets)

    def is_steady(self, sigmas: np.ndarray) -> bool:
        """Returns whether ``samplers.sample`` takes a schedule."""
        growth = solvers.amplification(self.recurrence(sigmas))
        return bool(growth.max() <= solvers.MAX_AMPLIFICATION)

    def differentiate(self, theta: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
        """Returns ``[batch, d, unknowns]`` by forward mode, all columns at once."""
        denoise, x = self.arguments[0], self.teacher.x[0]

        def recurrence(theta: np.ndarray) -> Recurrence:
            return self.recurrence(*unpack(theta, sigmas))

        here = recurrence(theta)
        rows = samplers.coefficients(here, x.dtype)
        # The coefficients are float64 NumPy, so that differences of them are exact.
        tangents = [
            samplers.coefficients(_slope(recurrence, theta, j), x.dtype)
            for j in free_indices(theta, sigmas)
        ]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *tangents)
        bound = denoise if isinstance(denoise, Partial) else Partial(denoise)
        columns = _columns(
            bound, x, rows, stacked, predict=here.predict, stages=here.stages
        )
        self.calls += len(here.times) * len(x) * len(columns)
        flat = np.asarray(columns, np.float64).reshape(len(columns), len(x), -1)
        return np.moveaxis(flat, 0, -1)

    @property
    def rounding(self) -> float:
        """An error per dimension below which differences mean nothing."""
        x = self.teacher.x
        return 10 * float(jnp.finfo(x.dtype).eps) * float(jnp.std(x[0]))


def unpack(
    theta: np.ndarray, sigmas: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns sigmas, the ends exactly those of ``sigmas``, and offsets if any."""
    count = len(sigmas)
    inner = [sigmas[:1], np.exp(theta[1 : count - 1]), sigmas[-1:]]
    return np.concatenate(inner), theta[count:] if len(theta) > count else None


def free_indices(theta: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Returns which entries are unknowns: all but the ends."""
    return np.delete(np.arange(len(theta)), [0, len(sigmas) - 1])


def jacobian(
    student: Rollout, theta: np.ndarray, residual: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """Returns the Jacobian of the student's end, ``[batch, d, unknowns]``.

    Args:
      student: to differentiate, in forward mode or by moving one unknown at a time.
      theta: the unknowns.
      residual: the student's there.
      sigmas: whose ends stay.
    """
    if student.forward:
        return student.differentiate(theta, sigmas)
    columns, gaps = [], -np.diff(theta[: len(sigmas)])
    for j in free_indices(theta, sigmas):
        moved, width = theta.copy(), WIDTH
        if j < len(sigmas):
            width = min(width, 0.2 * min(gaps[j - 1 : j + 1]))
        moved[j] += width
        columns.append((student(*unpack(moved, sigmas)) - residual) / width)
    return np.stack(columns, axis=-1)


def _slope(recurrence, theta: np.ndarray, j: int, width: float = 1e-5) -> Recurrence:
    """Returns the derivative of a recurrence's coefficients by one unknown."""
    step = width * np.eye(len(theta))[j]
    up, down = recurrence(theta + step), recurrence(theta - step)
    slopes = {
        name: (getattr(up, name) - getattr(down, name)) / (2 * width)
        for name in ("sigmas", "times", "scale", "weights", "correction")
        if getattr(up, name) is not None
    }
    return up._replace(**slopes)


@partial(jax.jit, static_argnames=("predict", "stages"))
def _columns(denoise, x, rows, tangents, *, predict: str, stages: int) -> jax.Array:
    def end(rows):
        return samplers.last_state(denoise, x, rows, predict=predict, stages=stages)

    return jax.vmap(lambda one: jax.jvp(end, (rows,), (one,))[1])(tangents)
