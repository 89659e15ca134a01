import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxkd.metrics import heatmaps


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    lungs = np.zeros((6, 8, 8), bool)
    lungs[1:5, 1:7, 1:7] = True
    lesion = np.zeros_like(lungs)
    lesion[2:4, 2:4, 2:5] = True
    return rng.normal(size=lungs.shape), lesion, lungs


def test_scores_against_a_plain_reading(case):
    heat, lesion, lungs = case
    got = heatmaps.scores(heat, lesion, lungs)
    inside = list(zip(*np.where(lungs), strict=True))
    values = np.array([heat[place] for place in inside])
    target = np.array([lesion[place] for place in inside])
    assert got.auc == pytest.approx(roc_auc_score(target, values))
    assert got.auc_either == max(got.auc, 1 - got.auc)
    assert got.pointing == target[values.argmax()]
    warmth = values - values.min()
    assert got.share == pytest.approx(warmth[target].sum() / warmth.sum())
    top = values >= np.sort(values)[-target.sum()]
    assert got.iou == pytest.approx((top & target).sum() / (top | target).sum())


def test_the_lesion_itself_scores_one(case):
    _, lesion, lungs = case
    got = heatmaps.scores(lesion.astype(float), lesion, lungs)
    assert got[:5] == (1, 1, 1, 1, 1)
    inverted = heatmaps.scores(-lesion.astype(float), lesion, lungs)
    assert inverted.auc == 0 and inverted.auc_either == 1 and inverted.pointing == 0


def test_heat_outside_the_lungs_does_not_count(case):
    heat, lesion, lungs = case
    hot = np.where(lungs, heat, 1e6)
    assert heatmaps.scores(hot, lesion, lungs)[:5] == pytest.approx(
        heatmaps.scores(heat, lesion, lungs)[:5]
    )


def test_nothing_to_compare(case):
    heat, lesion, lungs = case
    assert heatmaps.scores(heat, lesion * 0, lungs) is None
    assert heatmaps.scores(heat, lungs, lungs) is None


def test_a_constant_map(case):
    _, lesion, lungs = case
    flat = np.full(lungs.shape, 0.3)
    assert heatmaps.is_constant(flat) and not heatmaps.is_constant(case[0])
    got = heatmaps.scores(flat, lesion, lungs)
    assert got.auc == 0.5 and got.sharpness == 0
    assert got.share == pytest.approx(lesion[lungs].mean())
    assert not heatmaps.normalized(flat).any()


def test_sharpness_of_a_ramp():
    ramp = np.broadcast_to(np.linspace(5, 9, 11), (4, 4, 11))
    assert heatmaps.sharpness(ramp) == pytest.approx(0.1**2)
    # Neither scale nor offset matters.
    assert heatmaps.sharpness(3 * ramp + 1) == pytest.approx(0.1**2)
