"""How well a heat map shows lesions whose place is known.

A heat map is float ``[depth, height, width]``; lesion and lungs are masks of the same
shape. All scores but the sharpness look at the lungs only.
"""

from typing import NamedTuple

import numpy as np

from jaxkd.metrics.classification import auc

Array = np.ndarray


class HeatScores(NamedTuple):
    """Scores of one heat map.

    Attributes:
      auc: how often a voxel of a lesion is hotter than another one of the lungs.
      auc_either: the larger of ``auc`` and ``1 - auc``: for maps that may mark lesions
        by low values.
      pointing: 1 if the hottest voxel lies in a lesion, else 0.
      share: of the heat (from 0, the coldest voxel of the lungs) inside lesions.
      iou: of the lesions with as many of the hottest voxels.
      sharpness: see ``sharpness``.
    """

    auc: float
    auc_either: float
    pointing: float
    share: float
    iou: float
    sharpness: float


def scores(heat: Array, lesion: Array, lungs: Array) -> HeatScores | None:
    """Compares a heat map with the lesions.

    Args:
      heat: float ``[depth, height, width]``.
      lesion: mask.
      lungs: mask.

    Returns:
      The scores; None if no voxel of the lungs is in a lesion, or all are.
    """
    inside = np.asarray(lungs, bool)
    values, target = (
        np.asarray(heat, np.float64)[inside],
        np.asarray(lesion)[inside] > 0,
    )
    if not target.any() or target.all():
        return None
    area = auc(values, target)
    warmth = values - values.min()
    total = warmth.sum()
    # Of equal values the first counts, as in argmax.
    hottest = np.zeros_like(target)
    hottest[np.argsort(-values, kind="stable")[: target.sum()]] = True
    union = (hottest | target).sum()
    return HeatScores(
        auc=area,
        auc_either=max(area, 1 - area),
        pointing=float(target[values.argmax()]),
        share=float(warmth[target].sum() / total) if total else float(target.mean()),
        iou=float((hottest & target).sum() / union),
        sharpness=sharpness(heat),
    )


def normalized(heat: Array) -> Array:
    """Spreads a heat map over 0 to 1; one without contrast becomes 0."""
    heat = np.asarray(heat, np.float64)
    heat = heat - heat.min()
    return heat / heat.max() if heat.max() > 0 else heat


def is_constant(heat: Array, tolerance: float = 1e-6) -> bool:
    """Tells whether a heat map shows nothing: no contrast beyond rounding."""
    heat = np.asarray(heat, np.float64)
    return float(np.ptp(heat)) <= tolerance * max(float(np.abs(heat).max()), tolerance)


def sharpness(heat: Array) -> float:
    """Returns the mean squared gradient of a heat map spread over 0 to 1.

    Finer maps are sharper whatever they show; compare maps of one resolution.
    """
    gradients = np.gradient(normalized(heat))
    return float(sum(np.square(one).mean() for one in gradients))
