"""Do two images show the same? Accuracy over folds, TAR at FAR, equal error rate.

A pair has a score, the larger the more alike, and is accepted if its score reaches a
threshold. FAR is the share of pairs of two identities that are accepted, TAR the share
of pairs of one identity that are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class FoldAccuracy(NamedTuple):
    """Accuracy of each fold at a threshold chosen on the others.

    Attributes:
      accuracy: ``[folds]``, in [0, 1].
      threshold: ``[folds]``.
    """

    accuracy: np.ndarray
    threshold: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.accuracy))

    @property
    def deviation(self) -> float:
        """Standard deviation over the folds, dividing by their number."""
        return float(np.std(self.accuracy))


def cosine_scores(
    embeddings: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Computes the cosine of each pair of rows.

    Args:
      embeddings: ``[images, features]``.
      first: ``[pairs]``, rows.
      second: ``[pairs]``, rows.

    Returns:
      float64 ``[pairs]``.

    Raises:
      ValueError: if an embedding that a pair needs is zero or not finite.
    """
    rows = unit_rows(embeddings)
    return np.sum(rows[first] * rows[second], axis=1)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Scales each row to length 1, in float64.

    Raises:
      ValueError: if a row is zero or not finite.
    """
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2:
        raise ValueError(
            f"embeddings have shape {rows.shape}, expected [images, features]."
        )
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~((size > 0) & np.isfinite(size)))
    if wrong.size:
        raise ValueError(
            f"Embedding {wrong[0]} has length {size[wrong[0], 0]}, expected one with a "
            f"direction ({wrong.size} such rows). Has the network diverged?"
        )
    return rows / size


def fold_accuracy(
    scores: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> FoldAccuracy:
    """Measures accuracy fold by fold, as LFW's view 2 wants it.

    For each fold, the threshold that is right most often on all *other* folds is
    applied to it. Of thresholds that are equally good, the middle of the first interval
    is taken. Huang et al., "Labeled Faces in the Wild", 2007, section III.

    Args:
      scores: ``[pairs]``.
      same: ``[pairs]``, boolean.
      fold: ``[pairs]``, numbers of folds.

    Raises:
      ValueError: if shapes do not fit, or there is one fold only.
    """
    scores, same = _check(scores, same)
    fold = np.asarray(fold)
    folds = np.unique(fold)
    if fold.shape != scores.shape or len(folds) < 2:
        raise ValueError(
            f"fold has shape {fold.shape} and {len(folds)} folds, expected "
            f"{scores.shape} and at least 2: a threshold is chosen on other folds."
        )
    thresholds = [_threshold(scores[fold != f], same[fold != f]) for f in folds]
    accuracy = [
        np.mean((scores[fold == f] >= t) == same[fold == f])
        for f, t in zip(folds, thresholds, strict=True)
    ]
    return FoldAccuracy(np.array(accuracy), np.array(thresholds))


def tar_at_far(
    scores: np.ndarray, same: np.ndarray, fars: Sequence[float]
) -> np.ndarray:
    """Measures the largest TAR whose FAR does not exceed each given one.

    Args:
      scores: ``[pairs]``.
      same: ``[pairs]``, boolean.
      fars: in (0, 1), none below one over the pairs of two identities: a smaller one
        could not be told from 0.

    Returns:
      ``[fars]``.

    Raises:
      ValueError: if shapes do not fit, or a FAR is out of its range.
    """
    scores, same = _check(scores, same)
    impostors = np.sum(~same)
    for far in fars:
        if not 1 / impostors <= far < 1:
            raise ValueError(
                f"FAR {far:g} was asked for, expected from {1 / impostors:.2g} (1 over "
                f"{impostors} pairs of two identities) to 1. Add pairs or leave it out."
            )
    reached, tar, _ = roc(scores, same)
    return np.array([tar[reached <= far].max() for far in fars])


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Measures the error at which FAR equals ``1 - TAR``.

    Between two thresholds the curve is interpolated linearly.

    Args:
      scores: ``[pairs]``.
      same: ``[pairs]``, boolean.

    Returns:
      In [0, 1]; 0.5 is chance.

    Raises:
      ValueError: if shapes do not fit.
    """
    far, tar, _ = roc(*_check(scores, same))
    gap = far - (1 - tar)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    if gap[after] == 0:
        return float(far[after])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


def roc(
    scores: np.ndarray, same: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns FAR, TAR and the thresholds, from none accepted to all.

    Args:
      scores: ``[pairs]``.
      same: ``[pairs]``, boolean.
    """
    from sklearn.metrics import roc_curve

    return roc_curve(same, scores, drop_intermediate=False)


def _check(scores, same) -> tuple[np.ndarray, np.ndarray]:
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1:
        raise ValueError(
            f"scores have shape {scores.shape} and same {same.shape}, expected [pairs] "
            "for both."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.sum(~np.isfinite(scores))} scores are not finite.")
    if same.all() or not same.any():
        raise ValueError(
            f"All {len(same)} pairs are of {'one identity' if same.all() else 'two'}, "
            "expected pairs of both kinds."
        )
    return scores, same


def _threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Chooses the threshold that is right most often; see ``fold_accuracy``."""
    order = np.argsort(scores)
    values, same = scores[order], same[order]
    # right[i]: pairs judged rightly if all from place i on are accepted.
    below = np.concatenate([[0], np.cumsum(~same)])
    above = np.concatenate([np.cumsum(same[::-1])[::-1], [0]])
    right = below + above
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = int(np.argmax(np.where(possible, right, -1)))
    lower = values[best - 1] if best else values[0] - 1
    upper = values[best] if best < len(values) else values[-1] + 1
    return float(upper if best in (0, len(values)) else (lower + upper) / 2)
