"""Average precision of hand-made detections, whose curve is known."""

import math

import numpy as np
import pytest

from jaxkd.metrics import detection

pytest.importorskip("pycocotools")


def image(boxes, classes, scores=None):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    scores = None if scores is None else np.asarray(scores)
    return detection.ImageBoxes(boxes, np.asarray(classes, int), scores)


BOX, OTHER = [10, 10, 30, 40], [50, 50, 90, 80]


def test_perfect_and_missing():
    truths = [image([BOX, OTHER, BOX], [0, 1, -1]), image([], [])]
    right = [image([BOX, OTHER], [0, 1], [0.9, 0.8]), image([], [], [])]
    found = detection.average_precision(right, truths)
    assert found["ap"] == pytest.approx(1) and found["ap50"] == pytest.approx(1)
    assert found["ap_small"] == pytest.approx(1) and math.isnan(found["ap_large"])
    nothing = [image([], [], [])] * 2
    assert detection.average_precision(nothing, truths)["ap50"] == 0
    assert math.isnan(detection.average_precision(nothing, nothing)["ap"])


def test_a_false_alarm_before_one_of_two_hits():
    # Ranked: hit, false alarm, hit: precision 1 up to recall 0.5, then 2 / 3.
    truths = [image([BOX, OTHER], [0, 0])]
    guess = image([BOX, [0, 0, 5, 5], OTHER], [0, 0, 0], [0.9, 0.8, 0.7])
    found = detection.average_precision([guess], truths)
    expected = (51 * 1 + 50 * 2 / 3) / 101  # at 101 recalls
    assert found["ap50"] == pytest.approx(expected, abs=1e-3)


def test_overlap_and_class_count():
    truths = [image([BOX], [2])]
    shifted = [10, 10, 30, 30]  # overlap 2 / 3
    found = detection.average_precision([image([shifted], [2], [0.5])], truths)
    assert found["ap50"] == pytest.approx(1) and found["ap75"] == 0
    assert found["ap"] == pytest.approx(0.4)  # 0.5, 0.55, 0.6 and 0.65 of ten
    found = detection.average_precision([image([BOX], [1], [0.5])], truths)
    assert found["ap50"] == 0
    with pytest.raises(ValueError, match="expected as many"):
        detection.average_precision([], truths)


def test_crowds_as_pycocotools_itself_ignores_them():
    """Against its own JSON files and ``loadRes``, for random boxes, some of crowds."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    truths, guesses, written, results = [], [], [], []
    for index in range(6):
        corner, size = rng.uniform(0, 60, (2, 8, 2))
        boxes = np.concatenate([corner, corner + 8 + size], axis=1)
        labels, crowds = rng.integers(0, 2, 8), np.arange(8) < 3
        classes = np.where(crowds, [detection.crowd(x) for x in labels], labels)
        truths.append(image([*boxes, BOX], [*classes, -1]))
        moved = np.tile(boxes, (2, 1)) + rng.normal(0, 3, (16, 4))
        scores = rng.uniform(0.1, 1, 16)
        guesses.append(image(moved, np.tile(labels, 2), scores))
        for rows, found in ((boxes, written), (moved, results)):
            for place, (left, top, right, bottom) in enumerate(rows.tolist()):
                box = [left, top, right - left, bottom - top]
                one = {"image_id": index, "category_id": int(labels[place % 8])}
                found.append(one | {"bbox": box, "area": box[2] * box[3]})
        for place in range(8):
            written[-8 + place] |= {"iscrowd": int(crowds[place])}
        for place in range(16):
            results[-16 + place]["score"] = float(scores[place])
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": index} for index in range(6)],
        "categories": [{"id": 0}, {"id": 1}],
        "annotations": [one | {"id": i} for i, one in enumerate(written, start=1)],
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    found = detection.average_precision(guesses, truths)
    values = np.array([found[name] for name in detection.NAMES])
    expected = np.where(evaluation.stats[:6] < 0, np.nan, evaluation.stats[:6])
    np.testing.assert_allclose(values, expected, 1e-12)
    no_crowds = [one._replace(classes=np.maximum(one.classes, -1)) for one in truths]
    assert detection.average_precision(guesses, no_crowds)["ap50"] < found["ap50"]


def test_detections_in_a_crowd_count_neither_way():
    truths = [image([BOX, OTHER], [0, detection.crowd(0)])]
    inside = [[55, 55, 65, 65], [70, 60, 85, 75]]  # of OTHER
    guess = image([*inside, BOX], [0, 0, 0], [0.9, 0.8, 0.7])
    assert detection.average_precision([guess], truths)["ap"] == pytest.approx(1)
    other_class = guess._replace(classes=np.array([1, 1, 0]))
    truths.append(image([BOX], [1]))
    found = detection.average_precision([other_class, image([], [], [])], truths)
    assert found["ap50"] == pytest.approx(0.5)  # false alarms of class 1
    only = [image([OTHER], [detection.crowd(0)])]
    assert math.isnan(detection.average_precision([guess], only)["ap"])
