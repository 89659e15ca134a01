"""Scores of detectors of forgeries against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics

from jaxkd.metrics import clips

RNG = np.random.default_rng(0)


def test_the_official_protocol_is_scikit_learn_s():
    labels = RNG.integers(0, 2, 200)
    logits = RNG.normal(size=(200, 2)) + 0.8 * np.eye(2)[labels]
    found = clips.official(logits, labels)
    predicted = logits.argmax(1)
    tn, fp, fn, tp = metrics.confusion_matrix(labels, predicted).ravel()
    expected = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "f1": metrics.f1_score(labels, predicted),
        "balanced": metrics.balanced_accuracy_score(labels, predicted),
        "real_recall": tn / (tn + fp),
        "fake_recall": tp / (tp + fn),
        "auc": metrics.roc_auc_score(labels, logits[:, 1]),
        "hter": (fp / (fp + tn) + fn / (fn + tp)) / 2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value)


def test_equal_error_by_hand():
    # FAR falls and FRR rises at 0.5: one of four real clips above, one of four below.
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert clips.equal_error_rate(scores, labels) == pytest.approx(0.25)
    assert clips.equal_error_rate(labels, labels) == 0


def test_one_class_gives_no_number():
    found = clips.official(RNG.normal(size=(5, 2)), np.ones(5, int))
    for name in ("auc", "eer", "hter", "real_recall", "balanced"):
        assert np.isnan(found[name])
    assert np.isfinite(found["accuracy"])


@pytest.mark.parametrize("far", [0.0, 0.05, 0.21])
def test_a_threshold_keeps_its_promise_and_is_the_lowest(far):
    scores = RNG.normal(size=100)
    limit = clips.threshold(scores, far)
    assert np.mean(scores > limit) <= far
    lower = np.sort(scores)[np.sort(scores) < limit][-1]
    assert np.mean(scores > lower) > far


def test_thresholds_at_the_ends_of_their_range():
    scores = np.arange(100.0)
    # 0.29 * 100 is 28.999999999999996, and 29 scores may lie above.
    assert clips.threshold(scores, 0.29) == 70
    assert clips.threshold(scores, 1.0) == 0
    assert np.isnan(clips.threshold(np.zeros(0), 0.05))
