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
