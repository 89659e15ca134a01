"""Scores of a classifier over a whole test set, with intervals over patients.

Probabilities are ``[examples, classes]`` and labels int ``[examples]``, as NumPy
arrays. "Macro" is the plain mean over classes. A class that was never predicted has
precision 0, as in scikit-learn with ``zero_division=0``.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class PerClass(NamedTuple):
    """Scores of each class against the rest, ``[classes]``, and how many it has."""

    auc: Array
    precision: Array
    recall: Array
    f1: Array
    support: Array


def softmax(logits: Array) -> Array:
    """Returns the probabilities of logits ``[..., classes]``, in float64."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def auc(scores: Array, positive: Array) -> float:
    """Returns the area under the ROC curve, from ranks; ties count half.

    Args:
      scores: ``[n]``, higher for what should be positive.
      positive: bool ``[n]``.

    Returns:
      The probability that a positive scores higher than a negative; NaN if there are
      only positives or only negatives.
    """
    from scipy.stats import rankdata

    positive = np.asarray(positive, bool)
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def one_vs_rest_auc(probabilities: Array, labels: Array) -> Array:
    """Returns each class's AUC against the rest, ``[classes]``; NaN where undefined."""
    classes = range(probabilities.shape[1])
    return np.array([auc(probabilities[:, c], labels == c) for c in classes])


def per_class(probabilities: Array, labels: Array) -> PerClass:
    """Returns the scores of each class against the rest."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        *(labels, probabilities.argmax(1)),
        labels=np.arange(probabilities.shape[1]),
        zero_division=0,
    )
    areas = one_vs_rest_auc(probabilities, labels)
    return PerClass(areas, precision, recall, f1, support)


def summary(probabilities: Array, labels: Array) -> dict[str, float]:
    """Returns all scores of a test set by name.

    ``auc`` (macro, one against the rest, over the classes that occur), ``accuracy``,
    ``precision``, ``recall`` and ``f1`` (macro), ``f1_weighted`` (by the classes'
    sizes) and ``ece``.
    """
    each = per_class(probabilities, labels)
    return {
        "auc": _mean(each.auc),
        "accuracy": float((probabilities.argmax(1) == labels).mean()),
        "precision": float(each.precision.mean()),
        "recall": float(each.recall.mean()),
        "f1": float(each.f1.mean()),
        "f1_weighted": float(np.average(each.f1, weights=each.support)),
        "ece": calibration_error(probabilities, labels),
    }


def macro_auc(probabilities: Array, labels: Array) -> float:
    """Returns the mean AUC of the classes that occur, each against the rest."""
    return _mean(one_vs_rest_auc(probabilities, labels))


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def confusion(probabilities: Array, labels: Array) -> Array:
    """Returns counts ``[true class, predicted class]``."""
    from sklearn.metrics import confusion_matrix

    classes = np.arange(probabilities.shape[1])
    return confusion_matrix(labels, probabilities.argmax(1), labels=classes)


def sensitivity_specificity(
    probabilities: Array, labels: Array, positive: int = 0
) -> tuple[float, float]:
    """Returns how many of one class, and of the others, are told rightly.

    Args:
      probabilities: ``[examples, classes]``.
      labels: ``[examples]``.
      positive: the class to find.
    """
    found, real = probabilities.argmax(1) == positive, labels == positive
    ratios = []
    for hit, among in ((found, real), (~found, ~real)):
        ratios.append(float(hit[among].mean()) if among.any() else float("nan"))
    return ratios[0], ratios[1]


def calibration_error(probabilities: Array, labels: Array, bins: int = 15) -> float:
    """Returns the expected calibration error (arXiv:1706.04599, equation 3).

    Args:
      probabilities: ``[examples, classes]``.
      labels: ``[examples]``.
      bins: of equal width, over the probability of the predicted class.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    sizes = np.bincount(place, minlength=bins)
    gap = np.abs(
        np.bincount(place, right, minlength=bins)
        - np.bincount(place, confidence, minlength=bins)
    )
    return float(gap.sum() / sizes.sum())


def bootstrap(
    function: Callable[[Array, Array], float],
    probabilities: Array,
    labels: Array,
    groups: Array | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of a score.

    Args:
      function: ``(probabilities, labels) -> score``; NaN on a resample without a class
        is left out.
      probabilities: ``[examples, classes]``.
      labels: ``[examples]``.
      groups: ``[examples]``, such as patients: drawn as a whole. None draws examples.
      resamples: how many.
      level: of the interval.
      seed: of the draws.
    """
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    _, inverse = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(inverse == group) for group in range(inverse.max() + 1)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[group] for group in drawn])
        values.append(function(probabilities[rows], labels[rows]))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(values, tails)
    return float(low), float(high)
