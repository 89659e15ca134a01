"""Metrics of localisation on cases that can be counted, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score

from jaxkd.metrics import localization

SHAPE = (12, 15)


def cases(count=6, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *SHAPE))
    for mask in masks:
        y, x = rng.integers(0, 6, 2)
        mask[y : y + 5, x : x + 6] = 1
    logits = rng.normal(0, 1.5, masks.shape) + 1.5 * (masks - 0.5)
    return np.round(logits, 1), masks  # with ties


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_fixed_is_that_of_scikit_learn():
    logits, masks = cases()
    p = sigmoid(logits)
    scores = localization.fixed(p, masks, 0.6)
    for i, (one, mask) in enumerate(zip(p, masks, strict=True)):
        truth, marked = mask.ravel() > 0.5, one.ravel() >= 0.6
        np.testing.assert_allclose(scores["iou"][i], jaccard_score(truth, marked))
        np.testing.assert_allclose(scores["f1"][i], f1_score(truth, marked))
        np.testing.assert_allclose(scores["auc"][i], roc_auc_score(truth, one.ravel()))
        np.testing.assert_allclose(scores["flagged"][i], marked.mean())
        tried = [f1_score(truth, one.ravel() >= t) for t in np.unique(one)]
        np.testing.assert_allclose(scores["best_f1"][i], max(tried))


def test_official_is_the_published_recipe():
    logits, masks = cases()
    scores = localization.official(logits, masks * 255)
    for i, (z, mask) in enumerate(zip(logits, masks, strict=True)):
        p = sigmoid(z)
        p = (p - p.min()) / (p.max() - p.min() + 1e-8)
        truth, marked = mask.ravel() > 0.5, p.ravel() >= 0.5
        tp, fp = (truth & marked).sum(), (~truth & marked).sum()
        fn = (truth & ~marked).sum()
        np.testing.assert_allclose(scores["iou"][i], tp / (tp + fn + fp + 1e-6))
        macro = f1_score(truth, marked, average="macro")
        np.testing.assert_allclose(scores["f1"][i], macro)
        np.testing.assert_allclose(scores["auc"][i], roc_auc_score(truth, p.ravel()))


def test_official_on_known_answers():
    mask = np.zeros((1, 10, 10))
    mask[0, :2] = 1  # a fifth
    perfect = localization.official(40 * mask - 20, mask)
    np.testing.assert_allclose([perfect[k][0] for k in ("iou", "f1", "auc")], 1, 1e-6)
    # Something is always marked, even where every logit says no.
    never = np.full((1, 10, 10), -9.0)
    never[0, 5, 5] = -8.9
    wrong = localization.official(never, mask)
    assert wrong["iou"][0] == 0 and 0.4 < wrong["f1"][0] < 0.5
    # The right protocol gives such an answer nothing.
    assert localization.fixed(sigmoid(never), mask)["f1"][0] == 0
    authentic = localization.official(never, np.zeros_like(mask))
    assert np.isnan(authentic["auc"][0])


def test_undefined_values_are_left_out():
    logits, masks = cases()
    masks[2] = 0
    scores = localization.fixed(sigmoid(logits), masks)
    assert all(np.isnan(scores[name][2]) for name in ("iou", "f1", "auc", "boundary_f"))
    assert np.isfinite(scores["flagged"]).all()
    kept = np.delete(scores["iou"], 2)
    assert localization.mean(scores["iou"]) == pytest.approx(kept.mean())
    assert np.isnan(localization.mean(np.array([np.nan])))
    assert np.isnan(localization.auc(np.arange(3), np.ones(3)))


def test_boundaries():
    truth = np.zeros((20, 20), bool)
    truth[5:15, 5:15] = True
    assert localization.boundary_f(truth, truth) == 1
    assert localization.boundary_f(np.roll(truth, 2, 0), truth) == 1  # tolerated
    assert 0 < localization.boundary_f(np.roll(truth, 5, 0), truth) < 0.9
    assert localization.boundary_f(np.zeros_like(truth), truth) == 0
    far = np.zeros_like(truth)
    far[:2, :2] = True
    assert localization.boundary_f(far, truth) == 0
    assert np.isnan(localization.boundary_f(truth, np.ones_like(truth)))


@pytest.mark.parametrize("recall", [0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("levels", [4, 1000])
def test_the_threshold_of_a_recall_is_the_largest_that_finds_as_much(recall, levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (3, 9, 11)) / levels  # few levels tie
    truth = rng.random(scores.shape) < 0.3
    wanted = max(
        t for t in np.unique(scores) if (scores[truth] >= t).mean() >= recall - 1e-12
    )
    assert localization.recall_threshold(scores, truth, recall) == wanted


def test_a_threshold_needs_something_to_find():
    for truth, recall in ((np.zeros(4, bool), 0.5), (np.ones(4, bool), 0.0)):
        with pytest.raises(ValueError, match="expected a part"):
            localization.recall_threshold(np.arange(4.0), truth, recall)


def test_image_level():
    maps = np.zeros((2, 10, 20))
    maps[0, 0, :2], maps[0, 5, 5] = (0.9, 0.7), 0.4
    np.testing.assert_allclose(localization.image_scores(maps), [0.8, 0])
    found = localization.image_level([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
    assert found == {"auc": 0.75, "f1": 0.5, "false_alarms": 0.5}


def test_intervals_cover_the_mean_and_know_of_clusters():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        values = rng.normal(0.5, 0.2, 40)
        low, high = localization.bootstrap(values, draws=200, seed=seed)
        covered += low <= 0.5 <= high
    assert 50 <= covered <= 60
    clusters = np.repeat(np.arange(5), 40)
    values = np.repeat(rng.normal(0, 1, 5), 40) + rng.normal(0, 0.1, 200)
    alone = np.diff(localization.bootstrap(values))
    together = np.diff(localization.bootstrap(values, clusters))
    assert together > 3 * alone
