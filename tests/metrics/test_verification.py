"""Verification metrics by counting, on small sets and at their edges."""

import numpy as np
import pytest

from jaxkd.metrics import verification


def draw(pairs=300, seed=0, gap=1.0):
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(pairs) % 2 == 0)
    scores = np.round(rng.normal(gap * same, 1.0), 2)  # with ties
    return scores, same


def counted(scores, same, threshold):
    accepted = scores >= threshold
    return np.mean(accepted[~same]), np.mean(accepted[same])


def test_cosines():
    rows = np.array([[3.0, 4.0], [4.0, 3.0], [-6.0, -8.0]])
    scores = verification.cosine_scores(rows, np.array([0, 0, 1]), np.array([1, 2, 1]))
    np.testing.assert_allclose(scores, [24 / 25, -1, 1], 1e-12)
    with pytest.raises(
        ValueError, match=r"Embedding 1 has length 0.0, expected one wi"
    ):
        verification.unit_rows(np.array([[1.0, 0], [0, 0]]))
    with pytest.raises(ValueError, match=r"Embedding 0 has length nan"):
        verification.unit_rows(np.array([[np.nan, 0], [1, 0]]))


def test_fold_accuracy_against_every_threshold():
    scores, same = draw()
    fold = np.arange(len(scores)) % 5
    result = verification.fold_accuracy(scores, same, fold)
    for f in range(5):
        others, own = fold != f, fold == f
        best = max(
            np.mean((scores[others] >= t) == same[others])
            for t in [*np.unique(scores), np.inf]
        )
        threshold = result.threshold[f]
        assert np.mean((scores[others] >= threshold) == same[others]) == best
        assert result.accuracy[f] == np.mean((scores[own] >= threshold) == same[own])
    assert 0.6 < result.mean < 0.8
    assert result.deviation == np.std(result.accuracy)


def test_threshold_lies_in_the_middle_of_the_gap():
    scores = np.array([0.1, 0.2, 0.8, 0.9] * 2)
    same = np.array([False, False, True, True] * 2)
    result = verification.fold_accuracy(scores, same, np.repeat([0, 1], 4))
    np.testing.assert_allclose(result.threshold, 0.5)
    np.testing.assert_allclose(result.accuracy, 1)
    # Scores that say nothing: as good as the larger of the two kinds.
    none = verification.fold_accuracy(np.zeros(8), same, np.repeat([0, 1], 4))
    np.testing.assert_allclose(none.accuracy, 0.5)


def test_a_threshold_never_sees_its_own_fold():
    """Noise gets no better than chance, as it would by thresholds of its own."""
    rng = np.random.default_rng(0)
    accuracies = []
    for _ in range(200):
        scores, same = rng.normal(size=40), np.tile([True, False], 20)
        fold = np.repeat(np.arange(10), 4)
        accuracies.append(verification.fold_accuracy(scores, same, fold).mean)
    assert np.mean(accuracies) < 0.51


def test_tar_at_far_by_counting():
    scores, same = draw()
    fars = (0.01, 0.1, 0.5)
    measured = verification.tar_at_far(scores, same, fars)
    for far, tar in zip(fars, measured, strict=True):
        points = [counted(scores, same, t) for t in [*np.unique(scores), np.inf]]
        assert tar == max(t for f, t in points if f <= far)
    with pytest.raises(
        ValueError, match=r"FAR 0.001 was asked for, expected from 0.0067"
    ):
        verification.tar_at_far(scores, same, (0.001,))


def test_equal_error_rate():
    scores, same = draw(4000, gap=2.0)
    far, tar = counted(scores, same, 1.0)  # by symmetry the threshold is near 1
    assert abs(verification.equal_error_rate(scores, same) - (far + 1 - tar) / 2) < 0.01
    rate = verification.equal_error_rate
    truth = np.array([False, False, True, True])
    assert rate(np.array([0.0, 1, 2, 3]), truth) == 0
    assert rate(np.array([3.0, 2, 1, 0]), truth) == 1
    assert rate(np.zeros(4), truth) == 0.5
    assert rate(np.array([0.0, 2, 1, 3]), truth) == 0.5
    # One of three impostors above one of three mates: both errors are 1 / 3.
    assert rate(np.array([0, 1, 4, 3, 5, 6.0]), np.arange(6) >= 3) == 1 / 3


def test_wrong_input():
    scores, same = draw(20)
    with pytest.raises(
        ValueError, match=r"All 20 pairs are of one identity, expected p"
    ):
        verification.equal_error_rate(scores, np.ones(20, bool))
    with pytest.raises(ValueError, match=r"scores have shape \(19,\) and same \(20,\)"):
        verification.tar_at_far(scores[1:], same, (0.5,))
    with pytest.raises(ValueError, match=r"1 scores are not finite"):
        verification.equal_error_rate(np.where(np.arange(20) == 3, np.nan, 0), same)
    with pytest.raises(ValueError, match=r"1 folds, expected \(20,\) and at least 2"):
        verification.fold_accuracy(scores, same, np.zeros(20))
