<<<<<<< HEAD
"""Scores of detectors of forgeries against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics

from jaxkd.metrics import forgery

RNG = np.random.default_rng(0)


def test_the_official_protocol_is_scikit_learn_s():
    labels = RNG.integers(0, 2, 200)
    logits = RNG.normal(size=(200, 2)) + 0.8 * np.eye(2)[labels]
    found = forgery.official(logits, labels)
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
    assert forgery.equal_error_rate(scores, labels) == pytest.approx(0.25)
    assert forgery.equal_error_rate(labels, labels) == 0


def test_one_class_gives_no_number():
    found = forgery.official(RNG.normal(size=(5, 2)), np.ones(5, int))
    for name in ("auc", "eer", "hter", "real_recall", "balanced"):
        assert np.isnan(found[name])
    assert np.isfinite(found["accuracy"])


@pytest.mark.parametrize("far", [0.0, 0.05, 0.21])
def test_a_threshold_keeps_its_promise_and_is_the_lowest(far):
    scores = RNG.normal(size=100)
    limit = forgery.threshold(scores, far)
    assert np.mean(scores > limit) <= far
    lower = np.sort(scores)[np.sort(scores) < limit][-1]
    assert np.mean(scores > lower) > far
=======
"""Scores of forgery detectors on cases counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from jaxkd.metrics import forgery


def test_videos_of_one_name_and_two_methods_stay_apart():
    keys = [("real", "000"), ("FF-DF", "000"), ("FF-DF", "000"), ("FF-FS", "000")]
    means, fake = forgery.video_means(
        np.array([0.1, 0.4, 0.8, 0.9]), np.array([False, True, True, True]), keys
    )
    found = dict(zip(means.round(6).tolist(), fake.tolist(), strict=True))
    assert found == {0.1: False, 0.6: True, 0.9: True}
    with pytest.raises(ValueError, match="real and fake frames"):
        forgery.video_means(np.ones(2), np.array([True, False]), [("m", "v")] * 2)


def test_binary_scores():
    rng = np.random.default_rng(0)
    fake = rng.random(200) < 0.4
    probability = np.clip(rng.random(200) * 0.7 + 0.3 * fake, 0, 1)
    scores = forgery.binary_scores(probability, fake)
    assert scores["auc"] == pytest.approx(roc_auc_score(fake, probability))
    assert scores["accuracy"] == np.mean((probability >= 0.5) == fake)
    # The equal error rate by hand: where both errors are nearest.
    thresholds = np.unique(probability)
    misses = np.array([(probability[fake] < t).mean() for t in thresholds])
    alarms = np.array([(probability[~fake] >= t).mean() for t in thresholds])
    nearest = np.argmin(np.abs(misses - alarms))
    assert scores["eer"] == pytest.approx(alarms[nearest], abs=0.02)


def test_one_class_is_no_number():
    scores = forgery.binary_scores(np.array([0.2, 0.9]), np.array([True, True]))
    assert np.isnan([scores["auc"], scores["eer"], scores["ap"]]).all()
    assert scores["accuracy"] == 0.5


def test_auc_by_group():
    probability = np.array([0.1, 0.5, 0.4, 0.9, 0.2])
    fake = np.array([False, False, True, True, True])
    groups = np.array(["", "", "blur", "tone", "blur"])
    assert forgery.auc_by_group(probability, fake, groups) == {"blur": 0.5, "tone": 1}


def test_label_f1_and_its_prior():
    labels = np.array([[1, 2], [0, 0], [1, 0], [1, 2]])
    predicted = np.array([[1, 1], [1, 0], [0, 0], [1, 1]], bool)
    found = forgery.label_f1(predicted, labels)
    assert found[0] == pytest.approx(f1_score(labels[:, 0], predicted[:, 0]))
    assert np.isnan(found[1])  # no image is known to have the label
    prior = forgery.prior_f1(labels)
    assert prior[0] == pytest.approx(f1_score(labels[:, 0], np.ones(4)))
    assert np.isnan(prior[1])
>>>>>>> faceforgery
