"""What the laws of CT phantoms promise: what tells the classes, and what does not."""

import hashlib

import numpy as np
import pytest
from scipy.ndimage import label as components
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from jaxkd.core.errors import UserError
from jaxkd.datasets import phantoms
from jaxkd.drawing.ct import LAWS, distribution, parts, weak_contrast
from jaxkd.evaluators.ct import baselines
from jaxkd.metrics.classification import auc


def drawn(law, count):
    return phantoms.draw_many(phantoms.VALIDATION, count, 1, law=law)


@pytest.fixture(scope="module")
def scattered():
    return drawn("distribution", 96)


@pytest.fixture(scope="module")
def faint():
    return drawn("weak_contrast", 64)


def held_out_auc(features, labels):
    """AUC of a logistic regression, of scans that it was not fitted to."""
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    model = LogisticRegression(C=0.03, max_iter=1000)
    p = cross_val_predict(model, scaled, labels, cv=4, method="predict_proba")
    return auc(p[:, 1], labels == 1)


def test_the_first_law_draws_what_it_always_drew():
    """Cached scans and published figures are of these very voxels."""
    found = hashlib.sha256()
    for label in range(3):
        for array in phantoms.draw(label, (3, label), (4, label))[:3]:
            found.update(array.tobytes())
    assert found.hexdigest().startswith("11147032f4ac4a66")


def test_scans_of_one_seed_have_the_same_bodies_by_every_law():
    """So a first task needs another seed, or its classes fall on the same bodies."""
    for one, other in (("distribution", "sides"), ("weak_contrast", "shapes")):
        np.testing.assert_array_equal(drawn(one, 2)["lungs"], drawn(other, 2)["lungs"])


@pytest.mark.parametrize("law", ["distribution", "weak_contrast"])
def test_scans_are_as_described(law):
    arrays = drawn(law, 4)
    assert arrays["image"].dtype == np.int16
    assert arrays["image"].shape == (4, *LAWS[law].shape)
    assert arrays["label"].tolist() == [0, 1, 0, 1]
    lungs, lesion = arrays["lungs"] > 0, arrays["lesion"] > 0
    assert lesion.any((1, 2, 3)).all() and not (lesion & ~lungs).any()
    assert ("distractors" in arrays) == (law == "weak_contrast")
    again = drawn(law, 2)
    np.testing.assert_array_equal(again["image"], arrays["image"][:2])


# --- distribution ------------------------------------------------------------------


def halves(lesion):
    """Voxels of lesions in front and at the back, from the middle of the scan."""
    places = np.argwhere(lesion) - (np.array(distribution.SHAPE) - 1) / 2
    return places[places[:, 1] < 0], places[places[:, 1] > 0]


def test_lesions_of_both_classes_are_alike_and_lie_as_their_class_says(scattered):
    sizes = {0: [], 1: []}
    for lesion, kind in zip(scattered["lesion"], scattered["label"], strict=True):
        sides = []
        for place in halves(lesion):
            assert len(set(np.sign(place[:, 2]))) == 1  # one lung
            sides.append(np.sign(place[0, 2]))
            sizes[int(kind)].append(len(place))
        assert (sides[0] == sides[1]) == (distribution.CLASSES[kind] == "One-sided")
    sizes = {kind: np.array(each) for kind, each in sizes.items()}
    error = np.hypot(*(each.std() / np.sqrt(len(each)) for each in sizes.values()))
    assert abs(sizes[0].mean() - sizes[1].mean()) < 3 * error
    most = distribution.LESIONS * 125  # each stays in a box of 5x5x5
    assert all(each.min() > 30 and each.max() <= most for each in sizes.values())


def test_no_box_of_the_gap_sees_lesions_of_both_places(scattered):
    for lesion in scattered["lesion"]:
        one, two = halves(lesion)
        gaps = np.maximum(one.min(0) - two.max(0), two.min(0) - one.max(0)) - 1
        assert gaps.max() >= distribution.GAP


def test_sides_have_the_same_lesions_at_one_place(scattered):
    alone = drawn("sides", 64)
    assert LAWS["sides"].classes == ("Right", "Left")
    ends, sizes = [], []
    for lesion, side in zip(alone["lesion"], alone["label"], strict=True):
        front, back = halves(lesion)
        assert not len(front) or not len(back)
        place = np.concatenate([front, back])
        assert set(np.sign(place[:, 2])) == {2 * side - 1}
        ends.append(bool(len(front)))
        sizes.append(len(place))
    both = scattered["lesion"].sum((1, 2, 3)) / 2
    error = np.hypot(np.std(sizes) / 8, both.std() / np.sqrt(len(both)))
    assert abs(np.mean(sizes) - both.mean()) < 3 * error
    assert 20 <= sum(ends) <= 44  # of 64 tosses; three standard deviations


def test_every_place_is_as_likely_in_both_classes(scattered):
    """The side of a lesion in front is a fair coin in both, and so is that at the back.

    The rest of a lesion's law, given its side, does not look at the class.
    """
    counts = np.zeros((2, 2))  # class, front or back: lesions at the left
    for lesion, kind in zip(scattered["lesion"], scattered["label"], strict=True):
        there = lesion.any(0)
        for end, rows in enumerate((slice(0, 32), slice(32, 64))):
            left, right = there[rows, 32:].any(), there[rows, :32].any()
            assert left != right
            counts[kind, end] += left
    # Of 48 tosses each; three standard deviations are 10.4.
    assert (np.abs(counts - 24) <= 10).all()


def test_no_place_tells_the_class_but_a_pair_of_places_does(scattered):
    labels = scattered["label"]
    masks = [baselines.blocks(one.astype(np.float32)) for one in scattered["lesion"]]
    # 96 scans: the AUC of chance has a standard deviation of 0.06.
    assert abs(held_out_auc(np.array(masks), labels) - 0.5) < 0.16
    halves = scattered["lesion"].any((1, 2)).reshape(len(labels), 2, -1).any(2)
    both = halves.all(1)
    np.testing.assert_array_equal(both, labels == 0)
    relations = [
        baselines.relations(lesion, lungs)
        for lesion, lungs in zip(scattered["lesion"], scattered["lungs"], strict=True)
    ]
    assert held_out_auc(np.array(relations), labels) > 0.99


# --- weak contrast -----------------------------------------------------------------


def test_brightness_does_not_tell_lesions_from_distractors(faint):
    """Within a scan, as heat maps are scored, and over all scans."""
    each = []
    for image, lesion, pieces in zip(
        faint["image"], faint["lesion"], faint["distractors"], strict=True
    ):
        assert not (lesion & pieces).any()
        region = (lesion | pieces) > 0
        each.append(auc(image[region], lesion[region] > 0))
    assert 0.45 < np.mean(each) < 0.55
    assert np.std(each) / np.sqrt(len(each)) < 0.015


def test_lesions_are_compact_and_distractors_are_long(faint):
    """Per object, the spread along its longest axis by the root of its volume."""

    def lengths(masks):
        found = []
        for mask in masks:
            labelled, count = components(mask)
            for k in range(count):
                places = np.argwhere(labelled == k + 1)
                if 24 <= len(places) <= 100:  # others are two that touch, or are cut
                    longest = np.linalg.eigvalsh(np.cov(places.T))[-1]
                    found.append(np.sqrt(longest) / np.cbrt(len(places)))
        return np.array(found)

    balls, pieces = lengths(faint["lesion"][:32]), lengths(faint["distractors"][:32])
    assert len(balls) > 50 and len(pieces) > 80
    assert np.median(pieces) > 1.5 * np.median(balls)
    assert (
        auc(np.r_[pieces, balls], np.arange(len(pieces) + len(balls)) < len(pieces))
        > 0.98
    )


def test_shapes_hold_objects_of_one_shape_in_both_zones():
    """As many of each size and depth, whichever shape they have."""
    alone = drawn("shapes", 48)
    assert LAWS["shapes"].classes == ("Lesions", "Vessels")
    counts, depths = {0: [], 1: []}, {0: [], 1: []}
    for lesion, pieces, lungs, kind in zip(
        *(alone[name] for name in ("lesion", "distractors", "lungs", "label")),
        strict=True,
    ):
        mask, other = (lesion, pieces) if kind == 0 else (pieces, lesion)
        assert not other.any()
        counts[int(kind)].append(mask.sum())
        depths[int(kind)] += parts.depth(lungs > 0)[mask > 0].tolist()
    for each in (counts, depths):
        assert np.mean(each[0]) == pytest.approx(np.mean(each[1]), rel=0.1)
    # Eight to twelve objects of 24 to 40 voxels.
    assert all(150 < count < 480 for each in counts.values() for count in each)


def test_both_classes_are_equally_bright_everywhere(faint):
    """Bright voxels by depth below the lung's border; of lesions, the depth tells."""
    labels = faint["label"]
    bright, depths = [], []
    for lesion, pieces, lungs in zip(
        faint["lesion"], faint["distractors"], faint["lungs"], strict=True
    ):
        depth = parts.depth(lungs > 0)
        counts = np.histogram(depth[(lesion | pieces) > 0], 8, (1, 9))[0]
        bright.append(counts)
        depths.append(depth[lesion > 0].mean())
    assert auc(np.array(depths), labels == 1) > 0.99
    assert weak_contrast.CLASSES[1] == "Central"
    # 64 scans: the AUC of chance has a standard deviation of 0.07.
    assert abs(held_out_auc(np.array(bright, float), labels) - 0.5) < 0.2


def test_an_impossible_crop_is_refused_before_scans_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(phantoms, "draw_many", lambda *a: pytest.fail("it draws"))
    for crop in ((17, 40, 52), (16, 40), (0, 40, 52)):
        with pytest.raises(UserError, match=r"at most those of \(16, 64, 64\)"):
            phantoms.load(law="distribution", crop=crop, cache=str(tmp_path))
