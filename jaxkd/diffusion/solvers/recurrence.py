"""The common form of all solvers: a linear recurrence of the model's outputs.

Between two evaluations of the model a deterministic solver only adds up: the next
state is a linear combination of the present one and of the latest outputs, with
coefficients that depend on the schedule alone. Evaluation ``e`` at noise ``sigma_e``
reads

    m_e     = output(x_e, sigma_e)
    x_e    <- x_e + sum_k correction[e, k] m_{e-k}        (UniPC's corrector only)
    x_{e+1} = scale[e] x_e + sum_k weights[e, k] m_{e-k}

so that multistep, two-stage and predictor-corrector methods run in one loop, and a
change of schedule changes numbers but never the compiled program. The coefficients are
made here in float64 NumPy.
"""

from typing import NamedTuple

import numpy as np


class Recurrence(NamedTuple):
    """A solver on a schedule, of ``n`` sigmas and ``E`` evaluations.

    Attributes:
      sigmas: ``[n]``, of the schedule.
      times: ``[E]``, sigma of each evaluation.
      scale: ``[E]``, factor of the state.
      weights: ``[E, history]``, factors of the outputs, the latest first.
      correction: ``[E, history]``, or None where no step is corrected.
      predict: ``"eps"`` if the outputs are noise, ``"x0"`` if they are clean data.
      stages: evaluations per step; states between sigmas are not reported.
    """

    sigmas: np.ndarray
    times: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    correction: np.ndarray | None
    predict: str
    stages: int


def multistep(sigmas: np.ndarray, weights: list[np.ndarray]) -> Recurrence:
    """Returns the recurrence ``x + sum_k weights[k] eps_{i-k}``, one row a step."""
    steps = len(sigmas) - 1
    return Recurrence(
        sigmas, sigmas[:-1], np.ones(steps), padded(weights), None, "eps", 1
    )


def padded(rows: list[np.ndarray], width: int | None = None) -> np.ndarray:
    """Returns rows of different length as one matrix, filled up with zeros."""
    matrix = np.zeros((len(rows), max(map(len, rows)) if width is None else width))
    for full, row in zip(matrix, rows, strict=True):
        full[: len(row)] = row
    return matrix
