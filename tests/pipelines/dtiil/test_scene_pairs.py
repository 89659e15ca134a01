import numpy as np
import pytest

from jaxkd.drawing import scenes
from jaxkd.pipelines.dtiil import scene_pairs


def test_wrong_words_stand_where_they_are_said_to():
    rng = np.random.default_rng(0)
    pairs = scene_pairs.draw_pairs(rng, 40, wrong=2)
    assert pairs.inconsistent.tolist() == [False] * 20 + [True] * 20
    reading = scenes.read(pairs.images)
    for i in range(40):
        words = pairs.captions[i].split()
        shown = {
            1: scenes.COLOUR_NAMES[reading.colour[i, 0]],
            6: scenes.COLOUR_NAMES[reading.colour[i, 1]],
            9: scenes.BACKGROUND_NAMES[reading.background[i]],
        }
        wrong = {place for place, name in shown.items() if words[place] != name}
        assert wrong == set(pairs.changed[i]) & set(shown)
    assert not pairs.masks[:20].any() and pairs.masks[20:].any((1, 2)).all()


def test_masks_of_each_kind():
    pairs = scene_pairs.draw_pairs(np.random.default_rng(1), 30, consistent=0.0)
    distance = np.abs(pairs.images - pairs.images[:, :1, :1]).sum(-1) > 0.1
    seen = set()
    for mask, kinds, objects in zip(pairs.masks, pairs.kinds, distance, strict=True):
        (kind,) = kinds
        seen.add(kind)
        left, right = mask[:, :16].any(), mask[:, 16:].any()
        if kind == "background":
            # All but the objects, up to pixels that they cover in part.
            assert np.mean(mask == ~objects) > 0.9
        else:
            assert (left, right) == (kind.endswith("A"), kind.endswith("B"))
    assert seen == set(scene_pairs.KINDS)


def test_overlaps_by_counting():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert scene_pairs.iou(a, b) == scene_pairs.f1(a, b) == 1
    a[:2], b[1:3] = True, True
    assert scene_pairs.iou(a, b) == pytest.approx(4 / 12)
    assert scene_pairs.f1(a, b) == pytest.approx(8 / 16)


def test_detection_by_counting_pairs():
    labels = np.array([False, True, False, True])
    scores = np.array([0.1, 0.9, 0.5, 0.3])
    got = scene_pairs.detection(labels, scores, -scores)
    assert got["auc"] == 0.75 and got["auc of similarity"] == 0.25
    # Precision 1 at the first hit, 2/3 at the second.
    assert got["average precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert scene_pairs.detection(np.ones(3, bool), scores[:3], scores[:3]) == {}


def test_sweep_finds_the_threshold_of_a_known_map():
    pairs = scene_pairs.draw_pairs(np.random.default_rng(2), 6, consistent=0.0)
    maps = [np.where(mask, 1.0, 0.45) for mask in pairs.masks]
    found = scene_pairs.sweep(pairs, maps, (0.5, "otsu"))
    # Blurred edges alone are wrong.
    assert min(found.values()) > 0.8


def test_boxes_cover_a_quarter():
    pairs = scene_pairs.draw_pairs(np.random.default_rng(3), 5)
    for rng in (None, np.random.default_rng(0)):
        boxes = scene_pairs.box_masks(pairs, rng)
        assert (boxes.mean((1, 2)) == 0.25).all()
