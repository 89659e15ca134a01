"""Measures yes-or-no verdicts of which some are missing: nothing is dropped.

Published comparisons of chat models leave out pairs on which the model did not decide,
which flatters it. Here an undecided pair is a wrong one; how many were decided, and how
many of those rightly, stands beside it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class VerdictMetrics(NamedTuple):
    """Measures of verdicts over all pairs.

    Attributes:
      accuracy: share of all pairs decided rightly.
      coverage: share of all pairs decided at all.
      accuracy_answered: share of the decided that are right; NaN if none is decided.
      confusion: rows same and different, columns judged same, different, undecided.
    """

    accuracy: float
    coverage: float
    accuracy_answered: float
    confusion: np.ndarray


def verdict_metrics(
    decisions: Sequence[bool | None], same: Sequence[bool]
) -> VerdictMetrics:
    """Measures verdicts against the truth.

    >>> verdict_metrics([True, None, True, False], [True, True, False, False])[:3]
    (0.5, 0.75, 0.6666666666666666)

    Args:
      decisions: True, False, or None for undecided.
      same: the truth.

    Raises:
      ValueError: if the lengths differ, or there is no pair.
    """
    if len(decisions) != len(same) or not len(same):
        raise ValueError(
            f"Got {len(decisions)} decisions on {len(same)} pairs, expected one each "
            "and at least one."
        )
    confusion = np.zeros((2, 3), int)
    for decision, truth in zip(decisions, same, strict=True):
        column = 2 if decision is None else int(not decision)
        confusion[int(not truth), column] += 1
    right = int(confusion[0, 0] + confusion[1, 1])
    answered = int(confusion[:, :2].sum())
    total = len(same)
    return VerdictMetrics(
        right / total,
        answered / total,
        right / answered if answered else float("nan"),
        confusion,
    )


def scores(
    decisions: Sequence[bool | None], confidences: Sequence[float | None]
) -> np.ndarray:
    """Turns verdicts into probabilities of "same"; 0.5 where undecided.

    A verdict without a confidence counts as certain.
    """
    out = []
    for decision, confidence in zip(decisions, confidences, strict=True):
        sure = 1.0 if confidence is None else confidence
        out.append(0.5 if decision is None else sure if decision else 1 - sure)
    return np.array(out)


def agreement(first: Sequence, second: Sequence) -> float:
    """Returns the share of pairs that got the same verdict twice, e.g. when swapped.

    None is no verdict: a pair without one either time counts as no agreement.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"Got {len(first)} and {len(second)} verdicts, expected as many of both."
        )
    both = zip(first, second, strict=True)
    return float(np.mean([a is not None and a == b for a, b in both]))


def mcnemar(
    first_right: Sequence[bool] | np.ndarray, second_right: Sequence[bool] | np.ndarray
) -> float:
    """Tests whether two systems err equally often on the same pairs.

    The exact binomial form of McNemar's test (Psychometrika 12, 1947), two-sided.

    Args:
      first_right: whether the first system was right, ``[pairs]``.
      second_right: likewise.

    Returns:
      The p-value; 1 if they never differ.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first.shape != second.shape:
        raise ValueError(
            f"Got {first.shape} and {second.shape} verdicts, expected the same pairs."
        )
    only_first, only_second = np.sum(first & ~second), np.sum(~first & second)
    if not only_first + only_second:
        return 1.0
    return float(binomtest(int(only_first), int(only_first + only_second)).pvalue)


def feature_accuracy(
    told: Sequence[Mapping[str, Sequence[str]]],
    gold: Sequence[Mapping[str, Sequence[str]]],
) -> dict[str, float]:
    """Measures the values that explanations give to features of both samples.

    Args:
      told: per pair, feature -> (known value, questioned value); what is missing
        counts as wrong.
      gold: the truth, likewise.

    Returns:
      Feature -> share of right values, over all pairs and both samples.
    """
    right: dict[str, list[bool]] = {}
    for said, truth in zip(told, gold, strict=True):
        for name, values in truth.items():
            given = said.get(name, (None, None))
            pairs = zip(given, values, strict=True)
            right.setdefault(name, []).extend(a == b for a, b in pairs)
    return {name: float(np.mean(values)) for name, values in right.items()}


def majority_accuracy(
    gold: Sequence[Mapping[str, Sequence[str]]],
    reference: Sequence[Mapping[str, Sequence[str]]],
) -> dict[str, float]:
    """Measures the baseline that always tells each feature's most frequent value.

    Args:
      gold: the truth of the pairs to judge, as for ``feature_accuracy``.
      reference: where the most frequent value is counted, such as the training pairs.
    """
    best = {}
    for name in {name for row in reference for name in row}:
        values = [v for row in reference for v in row.get(name, ())]
        best[name] = max(sorted(set(values)), key=values.count)
    told = [{name: (best[name],) * 2 for name in row if name in best} for row in gold]
    return feature_accuracy(told, gold)
