"""Solvers that remember nothing between steps: Euler, Heun and DPM-Solver-2."""

import numpy as np

from jaxkd.diffusion.solvers.recurrence import Recurrence, multistep


def euler(sigmas: np.ndarray) -> Recurrence:
    """Makes Euler's method in sigma, which is DDIM (arXiv 2010.02502)."""
    return multistep(sigmas, list(np.diff(sigmas)[:, None]))


def heun(sigmas: np.ndarray) -> Recurrence:
    """Makes Heun's method (arXiv 2206.00364, algorithm 1), also on the last step."""
    step = np.diff(sigmas)
    # A trial step to the next sigma, then the mean of both slopes.
    return _two_stages(sigmas, sigmas[1:], 0.5 * step, 0.5 * step)


def dpm(sigmas: np.ndarray) -> Recurrence:
    """Makes DPM-Solver-2 (arXiv 2206.00927, algorithm 1) with r = 1/2.

    Its one slope is taken at the middle in log sigma, as in a midpoint rule.
    """
    step = np.diff(sigmas)
    middle = np.sqrt(sigmas[:-1] * sigmas[1:])
    return _two_stages(sigmas, middle, 0 * step, step)


def _two_stages(
    sigmas: np.ndarray, trial: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Recurrence:
    """Makes ``x + first eps(x, s) + second eps(x', trial)``, x' an Euler step away."""
    steps = len(sigmas) - 1
    reach = trial - sigmas[:-1]
    times = np.stack([sigmas[:-1], trial], axis=1).reshape(-1)
    weights = np.zeros((steps, 2, 2))
    weights[:, 0, 0] = reach
    # The second row starts from x' and takes the trial step back.
    weights[:, 1] = np.stack([second, first - reach], axis=1)
    return Recurrence(
        sigmas, times, np.ones(2 * steps), weights.reshape(-1, 2), None, "eps", 2
    )
