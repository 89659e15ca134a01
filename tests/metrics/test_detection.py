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
