"""Boxes of the padded square in the image's own pixels."""

import numpy as np

from jaxkd.datasets import boxes
from jaxkd.models import fcos
from jaxkd.predictors import detection


def test_boxes_come_back_to_the_image():
    found = fcos.Detections(
        np.array([[5.0, 2, 10, 9], [0, 0, 20, 20], [1, 1, 2, 2], [0, 0, 0, 0]]),
        np.array([0.9, 0.5, 0.2, 0.0]),
        np.array([3, 1, 0, -1]),
    )
    moved = detection.to_image(found, (21, 40, 3), 20, 0.3)  # half the size, padded
    # 21 rows were made 10, not 10.5.
    np.testing.assert_allclose(moved.boxes, [[10, 4.2, 20, 18.9], [0, 0, 40, 21]])
    assert moved.classes.tolist() == [3, 1] and moved.scores.tolist() == [0.9, 0.5]


def test_images_of_any_size_become_squares():
    image = np.full((10, 40, 3), 200, np.uint8)
    square = detection._square(image, 20)
    assert square.shape == (20, 20, 3) and (square[:5] == 200).all()
    assert (square[5:] != 200).any()


def test_boxes_are_those_that_were_fitted():
    image = np.zeros((7, 200, 3), np.uint8)
    box, side = np.array([[30.0, 2, 80, 6]]), 40
    seen = boxes.fit({"image": image, "boxes": box, "classes": [0]}, side, 1)
    found = fcos.Detections(seen["boxes"], np.array([1.0]), seen["classes"])
    back = detection.to_image(found, image.shape, side, 0.3)
    np.testing.assert_allclose(back.boxes, box, 1e-5)
