import numpy as np
import pytest

from jaxkd.metrics import verdicts


def test_undecided_pairs_are_wrong_ones():
    decisions = [True, None, False, True, None, False]
    same = [True, True, True, False, False, False]
    got = verdicts.verdict_metrics(decisions, same)
    np.testing.assert_array_equal(got.confusion, [[1, 1, 1], [1, 1, 1]])
    assert got.accuracy == pytest.approx(2 / 6)
    assert got.coverage == pytest.approx(4 / 6)
    assert got.accuracy_answered == pytest.approx(2 / 4)
    nothing = verdicts.verdict_metrics([None], [True])
    assert nothing.accuracy == nothing.coverage == 0
    assert np.isnan(nothing.accuracy_answered)
    with pytest.raises(ValueError, match="at least one"):
        verdicts.verdict_metrics([], [])


def test_scores_order_verdicts_by_confidence():
    got = verdicts.scores([True, True, None, False, False], [None, 0.7, 0.9, 0.7, 1.0])
    np.testing.assert_allclose(got, [1, 0.7, 0.5, 0.3, 0])


def test_mcnemar_is_the_binomial_tail():
    first = [True] * 6 + [False] + [True] * 3
    second = [False] * 6 + [True] + [True] * 3
    # 7 discordant pairs, 6 to 1: 2 * (1 + 7) / 2^7.
    assert verdicts.mcnemar(first, second) == pytest.approx(16 / 128)
    assert verdicts.mcnemar(first, first) == 1.0
    with pytest.raises(ValueError, match="same pairs"):
        verdicts.mcnemar(first, second[1:])


def test_features_that_are_not_told_are_wrong():
    gold = [{"size": ("a", "b"), "tilt": ("x", "x")}, {"size": ("a", "a")}]
    told = [{"size": ("a", "a")}, {"size": ("a", "a")}]
    got = verdicts.feature_accuracy(told, gold)
    assert got == {"size": 0.75, "tilt": 0.0}
    assert verdicts.majority_accuracy(gold, gold) == {"size": 0.75, "tilt": 1.0}
    assert verdicts.agreement([True, None, False], [True, None, True]) == 1 / 3
