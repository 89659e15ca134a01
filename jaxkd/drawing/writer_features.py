"""Names the features of drawn words as a forensic examiner does: gold explanations.

The features and their numbers of values are those of Chauhan et al. (arXiv:1909.02548);
where the cuts between values lie is ours. Three of the fifteen have no counterpart
among the parameters of a drawn word and are left out: every word is lower-case, and
neither the staff of its "a" nor how well it is formed is drawn as the scheme means it.
"""

from collections.abc import Callable

import numpy as np

from jaxkd.drawing.handwriting import PARAMETERS

# Feature -> its values, in the order of the numbers that ``features`` returns.
FEATURES: dict[str, tuple[str, ...]] = {
    "pen_pressure": ("strong", "medium"),
    "letter_spacing": ("less", "medium", "high"),
    "size": ("small", "medium", "large"),
    "dimension": ("low", "medium", "high"),  # height over width
    "is_continuous": ("no", "yes"),
    "slantness": ("normal", "slight right", "very right", "left"),
    "tilt": ("normal", "tilted"),
    "entry_stroke_a": ("none", "downstroke"),
    "formation_n": ("no clear arch", "normal"),
    "staff_of_d": ("none", "retraced", "loopy"),
    "exit_stroke_d": ("none", "downward", "curved up", "straight"),
    "constancy": ("irregular", "regular"),
}

_PLACE = {name: number for number, name in enumerate(PARAMETERS)}


def features(parameters: np.ndarray) -> np.ndarray:
    """Bins the parameters of drawn words into the values of ``FEATURES``.

    Args:
      parameters: ``[n, 24]``, as ``draw_writers`` returns them for its samples.

    Returns:
      int32 ``[n, 12]``, numbers of values.
    """
    given = np.asarray(parameters, np.float64)

    def column(name: str) -> np.ndarray:
        return given[:, _PLACE[name]]

    return np.stack([_BINS[name](column) for name in FEATURES], 1).astype(np.int32)


def _exit_stroke(column: Callable[[str], np.ndarray]) -> np.ndarray:
    angle = column("d_angle")
    kind = np.where(angle < -0.1, 1, np.where(angle > 0.3, 2, 3))
    return np.where(column("d_exit") <= 0.02, 0, kind)


def _slant(column: Callable[[str], np.ndarray]) -> np.ndarray:
    slant = column("slant")  # degrees
    right = np.where(slant > 16, 2, np.where(slant > 6, 1, 0))
    return np.where(slant < -3, 3, right)


_BINS: dict[str, Callable[[Callable[[str], np.ndarray]], np.ndarray]] = {
    "pen_pressure": lambda c: c("pen") <= PARAMETERS["pen"].mean,
    "letter_spacing": lambda c: np.digitize(c("spacing"), (0.075, 0.165)),
    "size": lambda c: np.digitize(c("size"), (-0.043, 0.043)),
    "dimension": lambda c: 2 - np.digitize(c("aspect"), (-0.06, 0.06)),
    # A pen lift is drawn where a join is at most a half.
    "is_continuous": lambda c: (c("join_an") > 0.5) & (c("join_nd") > 0.5),
    "slantness": _slant,
    "tilt": lambda c: np.abs(c("tilt")) > 2.0,
    "entry_stroke_a": lambda c: c("a_entry") > 0.12,
    "formation_n": lambda c: c("n_arch") > 0.35,
    "staff_of_d": lambda c: np.digitize(c("d_loop"), (0.04, 0.2)),
    "exit_stroke_d": _exit_stroke,
    "constancy": lambda c: c("tremor") <= 0.012,
}
