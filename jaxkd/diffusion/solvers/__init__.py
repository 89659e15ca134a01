"""The solvers by name.

| name    | order | calls per step | paper |
|---------|-------|----------------|-------|
| euler   | 1     | 1 | DDIM, arXiv 2010.02502 |
| heun    | 2     | 2 | EDM, arXiv 2206.00364 |
| dpm     | 2     | 2 | DPM-Solver-2, arXiv 2206.00927 |
| ipndm   | 1-4   | 1 | DEIS, arXiv 2204.13902 |
| ipndm_v | 1-4   | 1 | the published code's weights for variable steps |
| ab_v    | 1-4   | 1 | exact Adams-Bashforth in sigma |
| deis    | 1-4   | 1 | DEIS, arXiv 2204.13902; variants tab, rhoab |
| dpmpp   | 1-3   | 1 | DPM-Solver++, arXiv 2211.01095 |
| unipc   | 1-3   | 1 | UniPC, arXiv 2302.04867; variants bh2, bh1 |
"""

import numpy as np

from jaxkd.diffusion import schedules
from jaxkd.diffusion.solvers import adams, exponential, single_step
from jaxkd.diffusion.solvers.recurrence import Recurrence

# The highest order; None where there is only one and the argument has no effect.
MAX_ORDER = {
    "euler": None,
    "heun": None,
    "dpm": None,
    "ipndm": 4,
    "ipndm_v": 4,
    "ab_v": 4,
    "deis": 4,
    "dpmpp": 3,
    "unipc": 3,
}
# How many times rounding may grow in a step: float32 then keeps three digits of it.
MAX_AMPLIFICATION = 1e4
VARIANTS = {"deis": ("tab", "rhoab"), "unipc": ("bh2", "bh1")}  # The default first.


def make(
    solver: str,
    sigmas: np.ndarray,
    order: int = 4,
    *,
    predict: str = "x0",
    lower_order_final: bool = True,
    variant: str | None = None,
    steady: bool = True,
) -> Recurrence:
    """Makes a solver's recurrence on a schedule.

    Args:
      solver: one of ``MAX_ORDER``.
      sigmas: ``[num_sigmas]``, decreasing.
      order: of a multistep solver; euler, heun and dpm have one order only.
      predict: ``"x0"`` or ``"eps"``, for dpmpp and unipc.
      lower_order_final: for dpmpp and unipc.
      variant: of deis and unipc; None is the first of ``VARIANTS``.
      steady: whether to refuse schedules on which ``amplification`` exceeds
        ``MAX_AMPLIFICATION``.

    Raises:
      ValueError: if one of these is unknown or out of range, or sigmas are nearer than
        the solver can bear.
    """
    sigmas = schedules.explicit(sigmas)
    variant = _checked_variant(solver, order, predict, variant)
    made = _make(solver, sigmas, order, predict, lower_order_final, variant)
    growth = amplification(made)
    if steady and growth.max() > MAX_AMPLIFICATION:
        i = int(growth.argmax())
        before = np.diff(-sigmas)[max(i - order + 1, 0) : i + 1].argmin()
        close = max(i - order + 1, 0) + int(before)
        raise ValueError(
            f"{solver} of order {order} multiplies rounding by {growth.max():.0e} in "
            f"the step from sigma {i}, as sigmas {close} and {close + 1} "
            f"({sigmas[close]:g} and {sigmas[close + 1]:g}) are much nearer than those "
            f"after them; expected at most {MAX_AMPLIFICATION:.0e}. Drop one of them, "
            "or take euler, heun or ipndm, whose weights do not divide by gaps."
        )
    return made


def amplification(recurrence: Recurrence) -> np.ndarray:
    """Returns how many times each evaluation's step multiplies rounding, ``[E]``.

    It is the sum of the weights' magnitudes over the magnitude of their sum: weights of
    both signs that nearly cancel magnify what is wrong with the outputs. Solvers of two
    evaluations a step remember nothing between steps and have 1.
    """
    if recurrence.stages > 1:
        return np.ones(len(recurrence.times))
    whole = np.abs(recurrence.weights.sum(axis=1))
    growth = np.abs(recurrence.weights).sum(axis=1) / whole
    if recurrence.correction is not None:
        # What corrects a step is judged by the step it corrects.
        corrected = np.abs(recurrence.correction).sum(axis=1)[1:] / whole[:-1]
        growth[1:] = np.maximum(growth[1:], corrected)
    return growth


def _make(
    solver: str,
    sigmas: np.ndarray,
    order: int,
    predict: str,
    lower_order_final: bool,
    variant: str,
) -> Recurrence:
    match solver:
        case "euler":
            return single_step.euler(sigmas)
        case "heun":
            return single_step.heun(sigmas)
        case "dpm":
            return single_step.dpm(sigmas)
        case "ipndm":
            return adams.ipndm(sigmas, order)
        case "ipndm_v":
            return adams.ipndm_v(sigmas, order)
        case "ab_v":
            return adams.ab_v(sigmas, order)
        case "deis":
            return adams.deis(sigmas, order, variant)
        case "dpmpp":
            return exponential.dpmpp(sigmas, order, predict, lower_order_final)
        case _:
            return exponential.unipc(sigmas, order, predict, lower_order_final, variant)


def _checked_variant(solver: str, order: int, predict: str, variant: str | None) -> str:
    """Returns the variant to use, after a look at all arguments."""
    if solver not in MAX_ORDER:
        raise ValueError(f"No solver {solver!r}; there are {', '.join(MAX_ORDER)}.")
    highest = MAX_ORDER[solver] or np.inf
    if not 1 <= order <= highest:
        raise ValueError(
            f"{solver} of order {order}; expected at least 1"
            + (f" and at most {highest}." if highest < np.inf else ".")
        )
    if predict not in ("x0", "eps"):
        raise ValueError(f"predict={predict!r}; expected 'x0' or 'eps'.")
    variants = VARIANTS.get(solver, ("",))
    if variant is None:
        return variants[0]
    if variant not in variants or not variant:
        raise ValueError(
            f"{solver} has no variant {variant!r}; variants: "
            + "; ".join(f"{name} {', '.join(v)}" for name, v in VARIANTS.items())
        )
    return variant
