"""How well a map marks the tampered pixels of images, and whether there are any.

Two protocols, which are not comparable with each other:

- ``official``: that of DeFI-Net's code. Each image's map is stretched to [0, 1] before
  it is cut at one half, so that some pixel is always marked, and F1 is the mean over
  *both* classes, of which an empty answer gets 0.45.
- ``fixed``: probabilities as they are, cut at one threshold; IoU and F1 of the tampered
  class.

All return one value per image. Undefined values (the AUC of an image of one class, the
IoU of nothing) are NaN; ``mean`` leaves them out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Scores = dict[str, np.ndarray]

_TINY = 1e-6
_TOLERANCE = 2
_TOP = 0.01


def official(logits: np.ndarray, masks: np.ndarray) -> Scores:
    """Scores maps as the published code does; see above.

    Args:
      logits: ``[images, height, width]``, of the masks' size.
      masks: of any scale; each is divided by its maximum and cut at one half.

    Returns:
      ``iou`` (with 1e-6 added to the union), ``f1`` and ``auc``, ``[images]``.
    """
    rows = []
    for logit, mask in zip(logits, masks, strict=True):
        p = _sigmoid(logit)
        p = (p - p.min()) / (p.max() - p.min() + 1e-8)
        truth = mask / max(mask.max(), 1e-12) > 0.5
        counts = _counts(p >= 0.5, truth)
        tp, fp, fn, tn = counts
        both = np.mean([_f1(tp, fp, fn), _f1(tn, fn, fp)])
        rows.append((tp / (tp + fp + fn + _TINY), both, auc(p, truth)))
    return _columns(("iou", "f1", "auc"), rows)


def fixed(
    probabilities: np.ndarray, masks: np.ndarray, threshold: float = 0.5
) -> Scores:
    """Scores maps as they are.

    Args:
      probabilities: ``[images, height, width]``.
      masks: bool or in [0, 1], cut at one half.
      threshold: from which a pixel is marked.

    Returns:
      Of each image ``iou`` and ``f1`` of the tampered class, ``best_f1`` with the
      threshold that suits the image best, ``auc``, ``boundary_f`` and ``flagged``, the
      fraction of pixels that are marked. All but the last are NaN where nothing is
      tampered.
    """
    rows = []
    for p, mask in zip(probabilities, masks, strict=True):
        truth, marked = mask > 0.5, p >= threshold
        tp, fp, fn, _ = _counts(marked, truth)
        values = (np.nan,) * 5
        if truth.any():
            values = (
                tp / (tp + fp + fn),
                _f1(tp, fp, fn),
                best_f1(p, truth),
                auc(p, truth),
                boundary_f(marked, truth),
            )
        rows.append((*values, marked.mean()))
    names = ("iou", "f1", "best_f1", "auc", "boundary_f", "flagged")
    return _columns(names, rows)


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the area under the ROC curve; ties count half; NaN with one class."""
    from scipy.stats import rankdata

    truth = np.asarray(truth, bool).ravel()
    positive, negative = truth.sum(), (~truth).sum()
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(np.asarray(scores).ravel())[truth].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def best_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the largest F1 over all thresholds; NaN where nothing is true."""
    truth, scores = np.asarray(truth, bool).ravel(), np.asarray(scores).ravel()
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, ordered = np.cumsum(truth[order]), scores[order]
    # A threshold marks all pixels of the same score together.
    last = np.append(ordered[1:] != ordered[:-1], True)
    marked = np.arange(1, len(scores) + 1)
    return float((2 * hits / (marked + truth.sum()))[last].max())


def boundary_f(
    marked: np.ndarray, truth: np.ndarray, tolerance: int = _TOLERANCE
) -> float:
    """Returns the F1 of the two regions' inner rings.

    A ring pixel is found if the other ring has one within ``tolerance`` pixels in each
    direction. The rings are two pixels wide, as DeFI-Net's edges; the border of the
    image is no boundary. NaN where the truth has no boundary.
    """
    from scipy import ndimage

    near = np.ones((2 * tolerance + 1,) * 2, bool)
    rings = [_ring(np.asarray(region, bool)) for region in (marked, truth)]
    if not rings[1].any():
        return float("nan")
    if not rings[0].any():
        return 0.0
    grown = [ndimage.binary_dilation(ring, near) for ring in rings]
    precision = (rings[0] & grown[1]).sum() / rings[0].sum()
    recall = (rings[1] & grown[0]).sum() / rings[1].sum()
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0


def recall_threshold(
    scores: np.ndarray, truth: np.ndarray, recall: float = 0.5
) -> float:
    """Returns the largest threshold at which tampered pixels are found often enough.

    Detectors that are cut alike, at one recall, are compared by their false alarms:
    neither gains by where it happens to put one half.

    Args:
      scores: of any shape; a pixel is marked from the threshold on.
      truth: bool, of the same shape.
      recall: least part of the tampered pixels, all images taken together, in (0, 1].

    Raises:
      ValueError: if no pixel is tampered, or the recall is impossible.
    """
    tampered = np.sort(np.asarray(scores)[np.asarray(truth, bool)])
    if not tampered.size or not 0 < recall <= 1:
        raise ValueError(
            f"recall is {recall} of {tampered.size} tampered pixels, expected a part "
            "in (0, 1] of at least one."
        )
    found = int(np.ceil(recall * tampered.size - 1e-9))
    return float(tampered[tampered.size - found])


def image_scores(probabilities: np.ndarray) -> np.ndarray:
    """Returns the mean of the top 1 % of each image's pixels, ``[images]``."""
    flat = np.reshape(probabilities, (len(probabilities), -1))
    count = max(round(_TOP * flat.shape[1]), 1)
    return np.sort(flat, axis=1)[:, -count:].mean(1)


def image_level(
    scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5
) -> dict[str, float]:
    """Scores the decision whether images are tampered at all.

    Args:
      scores: ``[images]``, such as ``image_scores`` returns.
      labels: 1 for tampered images.
      threshold: from which an image is called tampered.

    Returns:
      ``auc``, ``f1``, and ``false_alarms``: the part of authentic images that are
      called tampered.
    """
    truth, called = np.asarray(labels) > 0, np.asarray(scores) >= threshold
    tp, fp, fn, _ = _counts(called, truth)
    authentic = ~truth
    alarms = called[authentic].mean() if authentic.any() else float("nan")
    return {
        "auc": auc(scores, truth),
        "f1": _f1(tp, fp, fn),
        "false_alarms": float(alarms),
    }


def mean(values: np.ndarray) -> float:
    """Returns the mean of what is defined; NaN if nothing is."""
    values = np.asarray(values, float)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def bootstrap(
    values: np.ndarray,
    clusters: Sequence[int] | None = None,
    *,
    statistic: Callable[[np.ndarray], float] = mean,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns a percentile interval of a statistic over images.

    Args:
      values: ``[images, ...]``.
      clusters: of each image, such as its photograph: clusters are drawn with all of
        their images, since those of one are alike. None draws images.
      statistic: of drawn rows.
      draws: number of resamples.
      level: of confidence.
      seed: of the resamples.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    found = []
    for _ in range(draws):
        drawn = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[index] for index in drawn])
        found.append(statistic(values[rows]))
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(found, (tail, 100 - tail))
    return float(low), float(high)


def _ring(region: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    inner = ndimage.binary_erosion(region, np.ones((5, 5), bool), border_value=1)
    return region & ~inner


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(np.asarray(x, np.float64) / 2))


def _counts(marked: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """Returns true and false positives, false and true negatives."""
    tp = int((marked & truth).sum())
    fp, fn = int((marked & ~truth).sum()), int((~marked & truth).sum())
    return tp, fp, fn, truth.size - tp - fp - fn


def _f1(tp: int, fp: int, fn: int) -> float:
    """Returns F1, 0 where there is nothing to find and nothing found."""
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def _columns(names: Sequence[str], rows: Sequence[Any]) -> Scores:
    table = np.asarray(rows, float).reshape(len(rows), len(names))
    return dict(zip(names, table.T, strict=True))
