"""Exponential-integrator solvers in log sigma: DPM-Solver++ and UniPC.

With ``lambda = -ln sigma`` the linear part of the equation is solved exactly and the
model's output is expanded around the present sigma. ``predict="x0"`` expands the clean
data, ``"eps"`` the noise. Order counts the outputs used: the first steps use fewer,
and with ``lower_order_final`` so do the last, which steadies few-step sampling.
"""

import numpy as np

from jaxkd.diffusion.solvers.recurrence import Recurrence, padded


def dpmpp(
    sigmas: np.ndarray,
    order: int = 3,
    predict: str = "x0",
    lower_order_final: bool = True,
) -> Recurrence:
    """Makes DPM-Solver++ multistep (arXiv 2211.01095, algorithm 2).

    Where the schedule has fewer steps than the order, the last step is lowered like
    any other; the published sampler of GITS does not lower it there.

    Args:
      sigmas: of the schedule.
      order: 1 to 3.
      predict: ``x0`` (DPM-Solver++) or ``eps`` (DPM-Solver).
      lower_order_final: whether the last steps use fewer outputs.
    """
    weights = []
    for i, used in enumerate(_orders(len(sigmas) - 1, order, lower_order_final)):
        weights.append(_taylor_weights(sigmas, i, used, predict))
    scale = sigmas[1:] / sigmas[:-1] if predict == "x0" else np.ones(len(sigmas) - 1)
    return Recurrence(sigmas, sigmas[:-1], scale, padded(weights), None, predict, 1)


def unipc(
    sigmas: np.ndarray,
    order: int = 3,
    predict: str = "x0",
    lower_order_final: bool = True,
    variant: str = "bh2",
) -> Recurrence:
    """Makes UniPC (arXiv 2302.04867, algorithms 5 to 8), multistep.

    The output at the predicted point corrects the step that led there and becomes the
    next history entry, so a step costs one evaluation. The last step is not
    corrected; nor, unlike in the published sampler of GITS, where there are fewer
    steps than the order.

    Args:
      sigmas: of the schedule.
      order: 1 to 3.
      predict: ``x0`` or ``eps``.
      lower_order_final: whether the last steps use fewer outputs.
      variant: ``bh1`` or ``bh2``, the paper's two choices of B(h).

    Raises:
      ValueError: for an unknown variant.
    """
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"unipc variant {variant!r}; expected 'bh1' or 'bh2'.")
    weights, correction = [], [np.zeros(1)]
    for i, used in enumerate(_orders(len(sigmas) - 1, order, lower_order_final)):
        predictor, corrector = _unified_weights(sigmas, i, used, predict, variant)
        weights.append(predictor)
        # The corrector sees one output more; the loop adds only what it changes.
        correction.append(corrector - np.append(0.0, predictor))
    scale = sigmas[1:] / sigmas[:-1] if predict == "x0" else np.ones(len(sigmas) - 1)
    history = max(map(len, weights + correction[:-1]))
    return Recurrence(
        sigmas,
        sigmas[:-1],
        scale,
        padded(weights, history),
        padded(correction[:-1], history),
        predict,
        1,
    )


def _orders(steps: int, order: int, lower_order_final: bool) -> list[int]:
    """Returns how many outputs each step uses."""
    return [
        min(i + 1, order, steps - i if lower_order_final else order)
        for i in range(steps)
    ]


def _taylor_weights(sigmas: np.ndarray, i: int, used: int, predict: str) -> np.ndarray:
    """Returns the factors of the latest outputs in step ``i`` of DPM-Solver++."""
    log_snr = -np.log(sigmas[: i + 2])
    length = log_snr[-1] - log_snr[-2]
    # Data: integrals of exp(lambda - end); noise: the same with the sign turned,
    # and the unit sigma instead of 1.
    sign, unit = (-1.0, 1.0) if predict == "x0" else (1.0, sigmas[i + 1])
    phi1 = np.expm1(sign * length)
    phi2 = phi1 / length - sign
    phi3 = phi2 / length - 0.5
    present = np.eye(used)[0]
    if used == 1:
        return -unit * phi1 * present
    r0 = (log_snr[-2] - log_snr[-3]) / length
    slope = (np.eye(used)[0] - np.eye(used)[1]) / r0
    if used == 2:
        return -unit * phi1 * (present + 0.5 * slope)
    r1 = (log_snr[-3] - log_snr[-4]) / length
    bend = (slope - (np.eye(used)[1] - np.eye(used)[2]) / r1) / (r0 + r1)
    slope = slope + r0 * bend
    return -unit * (phi1 * present + sign * phi2 * slope + phi3 * bend)


def _unified_weights(
    sigmas: np.ndarray, i: int, used: int, predict: str, variant: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factors of the outputs in step ``i`` of UniPC.

    Returns:
      The predictor's, ``[used]``, from the output at sigma ``i`` backwards, and the
      corrector's, ``[used + 1]``, from the output at sigma ``i + 1``.
    """
    log_snr = -np.log(sigmas[: i + 2])
    length = log_snr[-1] - log_snr[-2]
    signed, unit = (-length, 1.0) if predict == "x0" else (length, sigmas[i + 1])
    bound = signed if variant == "bh1" else np.expm1(signed)
    # Places of the differences: the earlier sigmas, then the next one.
    ratios = np.append((log_snr[-3::-1][: used - 1] - log_snr[-2]) / length, 1.0)
    powers = ratios ** np.arange(used)[:, None]
    moments = _moments(signed, used) / bound
    if used == 1:
        predictor, corrector = np.zeros(0), np.array([0.5])
    else:
        predictor = np.array([0.5])  # The paper's choice of a_1 for order 2.
        if used > 2:
            predictor = np.linalg.solve(powers[:-1, :-1], moments[:-1])
        corrector = np.linalg.solve(powers, moments)
    base = -unit * np.expm1(signed) * np.eye(used)[0]
    past = _difference_weights(ratios[:-1], predictor, used)
    past_corrected = _difference_weights(ratios[:-1], corrector[:-1], used)
    past_corrected[0] -= corrector[-1]
    return (
        base - unit * bound * past,
        np.append(-unit * bound * corrector[-1], base - unit * bound * past_corrected),
    )


def _moments(signed: float, used: int) -> np.ndarray:
    """Returns ``k! phi_{k+1}(h) h`` for k = 1 .. used (arXiv 2302.04867, eq. 5)."""
    moments = np.zeros(used)
    phi, factorial = np.expm1(signed) / signed - 1, 1.0
    for k in range(1, used + 1):
        moments[k - 1] = phi * factorial
        factorial *= k + 1
        phi = phi / signed - 1 / factorial
    return moments


def _difference_weights(
    ratios: np.ndarray, weights: np.ndarray, used: int
) -> np.ndarray:
    """Returns factors of outputs from those of ``(m_{i-k} - m_i) / ratio_k``."""
    factors = np.zeros(used)
    factors[1:] = weights / ratios
    factors[0] = -np.sum(factors[1:])
    return factors
