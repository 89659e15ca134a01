import numpy as np
import pytest
from sklearn import metrics as truth

from jaxkd.metrics import classification as metrics


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    logits = rng.normal(size=(60, 3)) + 1.2 * np.eye(3)[labels]
    return metrics.softmax(logits), labels


def test_summary_is_that_of_scikit_learn(case):
    probabilities, labels = case
    predicted = probabilities.argmax(1)
    got = metrics.summary(probabilities, labels)
    assert got["auc"] == pytest.approx(
        truth.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert got["accuracy"] == pytest.approx(truth.accuracy_score(labels, predicted))
    for name, function in (
        ("precision", truth.precision_score),
        ("recall", truth.recall_score),
        ("f1", truth.f1_score),
    ):
        assert got[name] == pytest.approx(function(labels, predicted, average="macro"))
    weighted = truth.f1_score(labels, predicted, average="weighted")
    assert got["f1_weighted"] == pytest.approx(weighted)
    confusion = metrics.confusion(probabilities, labels)
    np.testing.assert_array_equal(confusion, truth.confusion_matrix(labels, predicted))


def test_auc_counts_ties_half():
    assert metrics.auc(np.array([1.0, 1, 0]), np.array([1, 0, 0])) == 0.75
    assert np.isnan(metrics.auc(np.array([1.0, 2]), np.array([True, True])))
    scores, positive = (
        np.round(np.random.default_rng(1).normal(size=99), 1),
        np.arange(99) % 4 == 0,
    )
    wanted = truth.roc_auc_score(positive, scores)
    assert metrics.auc(scores, positive) == pytest.approx(wanted)


def test_absent_classes():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    labels = np.array([0, 1])
    each = metrics.per_class(probabilities, labels)
    assert np.isnan(each.auc[2]) and each.precision[2] == each.f1[2] == 0
    assert metrics.summary(probabilities, labels)["auc"] == 1
    assert metrics.confusion(probabilities, labels).shape == (3, 3)


def test_sensitivity_and_specificity():
    probabilities = np.eye(3)[[0, 0, 1, 0, 2]]
    labels = np.array([0, 0, 0, 1, 2])
    sensitivity, specificity = metrics.sensitivity_specificity(probabilities, labels)
    assert sensitivity == pytest.approx(2 / 3) and specificity == pytest.approx(1 / 2)
    assert np.isnan(metrics.sensitivity_specificity(probabilities, labels * 0 + 1)[0])


def test_calibration_error_by_hand():
    # Three at 0.75, of which two are right; one at 1.0, wrong.
    probabilities = np.array([[0.75, 0.25]] * 3 + [[1.0, 0.0]])
    labels = np.array([0, 0, 1, 1])
    wanted = 3 / 4 * abs(0.75 - 2 / 3) + 1 / 4 * 1.0
    got = metrics.calibration_error(probabilities, labels, bins=4)
    assert got == pytest.approx(wanted)
    sure = np.eye(2)[[0, 1]]
    assert metrics.calibration_error(sure, np.array([0, 1])) == 0


def test_bootstrap_covers_the_binomial_interval():
    rng = np.random.default_rng(2)
    right = rng.random(400) < 0.7
    probabilities, labels = np.eye(2)[right.astype(int)], np.ones(400, int)

    def accuracy(probabilities, labels):
        return float((probabilities.argmax(1) == labels).mean())

    low, high = metrics.bootstrap(accuracy, probabilities, labels)
    error = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert (high - low) / 2 == pytest.approx(error, rel=0.1)
    # Ten copies of each patient tell no more than one.
    ten = np.repeat(np.arange(40), 10)
    wide = metrics.bootstrap(
        accuracy, probabilities[ten], labels[ten], groups=ten, resamples=400
    )
    few = metrics.bootstrap(accuracy, probabilities[:40], labels[:40], resamples=400)
    assert wide == pytest.approx(few)


def test_bootstrap_leaves_out_undefined_resamples():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6]])
    low, high = metrics.bootstrap(
        metrics.macro_auc, probabilities, np.array([0, 1]), resamples=50
    )
    assert low == high == 1
