"""Adams-Bashforth solvers: iPNDM, its variable-step kin, and DEIS.

All extrapolate the noise prediction by a polynomial through its latest values and
integrate that; they differ in the variable of the polynomial and in how the size of
the steps enters. Order counts the values used; the first steps use fewer.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from jaxkd.diffusion import noise_schedules
from jaxkd.diffusion.solvers.recurrence import Recurrence, multistep

FIXED_STEP = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)


def ipndm(sigmas: np.ndarray, order: int = 4) -> Recurrence:
    """Makes iPNDM (arXiv 2204.13902), whose weights ignore the size of the steps.

    Formally of second order at most on uneven steps, yet strong at few of them.
    """
    weights = [
        step * FIXED_STEP[min(order, i + 1) - 1]
        for i, step in enumerate(np.diff(sigmas))
    ]
    return multistep(sigmas, weights)


def ipndm_v(sigmas: np.ndarray, order: int = 4) -> Recurrence:
    """Makes the variable-step iPNDM with the weights of the published code.

    Its weights of order 3 and 4 are not those of Adams-Bashforth: at even steps the
    last backward difference of order 4 has the weight 11/24 where the method has 3/8.
    Those of order 4 do not even sum to the step unless the ratio of successive steps
    is constant (on the polynomial grid they miss it by up to a thousandth), so the
    error falls as the second power of the step at best. They gave the published
    figures (zju-pi/diff-sampler) and extrapolate well at few steps, which is why they
    are kept; ``ab_v`` is the exact method.
    """
    step = np.diff(sigmas)
    weights = []
    for i in range(len(step)):
        used = min(order, i + 1)
        # The present step first, then those before it.
        latest = step[i::-1][:used]
        weights.append(step[i] * _official_weights(latest))
    return multistep(sigmas, weights)


def ab_v(sigmas: np.ndarray, order: int = 4) -> Recurrence:
    """Makes Adams-Bashforth with the exact weights of variable steps in sigma.

    The same as DEIS rho-AB (arXiv 2204.13902).
    """
    return multistep(sigmas, _integrated(sigmas, order, np.ones_like, points=4))


def deis(
    sigmas: np.ndarray,
    order: int = 4,
    variant: str = "tab",
    quadrature: str = "gauss",
    clock: noise_schedules.LinearBeta | None = None,
) -> Recurrence:
    """Makes DEIS (arXiv 2204.13902): the polynomial is in the time of a VP clock.

    Args:
      sigmas: of the schedule.
      order: values used, at most 4; DEIS-tAB3 in papers is 4.
      variant: ``tab``, or ``rhoab`` for a polynomial in sigma (``ab_v``).
      quadrature: ``gauss``, of 40 points, or ``riemann10000``, the plain sum over
        both ends of the published code, whose weights are off by about 1e-4.
      clock: the clock; by default the one fitted to sigma from 0.002 to 80, as the
        published code has it whatever the range.

    Raises:
      ValueError: for an unknown variant or quadrature.
    """
    if variant not in ("tab", "rhoab"):
        raise ValueError(f"deis variant {variant!r}; expected 'tab' or 'rhoab'.")
    if quadrature not in ("gauss", "riemann10000"):
        raise ValueError(
            f"quadrature {quadrature!r}; expected 'gauss', 'riemann10000'."
        )
    if variant == "rhoab":
        return ab_v(sigmas, order)
    clock = noise_schedules.fit_linear_beta(0.002, 80.0) if clock is None else clock

    def sigma_rate(time: np.ndarray) -> np.ndarray:
        exponent = (0.5 * clock.beta_d * time + clock.beta_min) * time
        rate = clock.beta_d * time + clock.beta_min
        return 0.5 * rate * np.exp(exponent) / np.sqrt(np.expm1(exponent))

    points = 40 if quadrature == "gauss" else 0
    weights = _integrated(clock.time(sigmas), order, sigma_rate, points)
    weights[0] = np.diff(sigmas)[:1]
    return multistep(sigmas, weights)


def _integrated(
    nodes: np.ndarray,
    order: int,
    rate: Callable[[np.ndarray], np.ndarray],
    points: int,
) -> list[np.ndarray]:
    """Returns each step's integrals of ``rate`` times the Lagrange polynomials."""
    weights = []
    for i, (start, end) in enumerate(pairwise(nodes)):
        places, masses = _quadrature(start, end, points)
        past = nodes[i::-1][:order]
        integrand = _lagrange(past, places) * rate(places)
        weights.append(integrand @ masses)
    return weights


def _quadrature(start: float, end: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns places and masses: Gauss-Legendre, or the published sum for 0 points."""
    if points == 0:
        places = np.linspace(start, end, 10000)
        return places, np.full(10000, (end - start) / 10000)
    places, masses = np.polynomial.legendre.leggauss(points)
    half = 0.5 * (end - start)
    return start + half * (places + 1), half * masses


def _lagrange(nodes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns ``[nodes, places]``: polynomials that are 1 at one node, 0 at others."""
    values = np.ones((len(nodes), len(places)))
    for j, node in enumerate(nodes):
        for other in np.delete(nodes, j):
            values[j] *= (places - other) / (node - other)
    return values


def _official_weights(steps: np.ndarray) -> np.ndarray:
    """Returns the published weights for the present step and those before it."""
    if len(steps) == 1:
        return np.array([1.0])
    h, h1, *before = steps
    second = 0.5 * h / h1
    if not before:
        return np.array([1 + second, -second])
    h2 = before[0]
    share = h / (3 * (h + h1))
    third = 0.5 * (1 - share * h * (h + h1) / (h1 * (h1 + h2)))
    weights = np.array([1 + second + third, -second - (1 + h1 / h2) * third, 0, 0])
    weights[2] = third * h1 / h2
    if len(steps) == 3:
        return weights[:3]
    h3 = before[1]
    fourth = 0.5 * (1 - share) + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    fourth *= h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    grade = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return weights + fourth * np.array(
        [1, -(1 + h1 / h2 + grade), h1 / h2 + grade * (1 + h2 / h3), -grade * h1 / h2]
    )
