"""Boxes of the padded square in the image's own pixels."""

import numpy as np

from jaxkd.models import fcos
from jaxkd.predictors import detection


def test_boxes_come_back_to_the_image():
    found = fcos.Detections(
        np.array([[5.0, 2, 10, 9], [0, 0, 20, 20], [1, 1, 2, 2], [0, 0, 0, 0]]),
        np.array([0.9, 0.5, 0.2, 0.0]),
        np.array([3, 1, 0, -1]),
    )
    boxes = detection.to_image(found, (21, 40, 3), 20, 0.3)  # half the size, padded
    np.testing.assert_allclose(boxes.boxes, [[10, 4, 20, 18], [0, 0, 40, 21]])
    assert boxes.classes.tolist() == [3, 1] and boxes.scores.tolist() == [0.9, 0.5]


def test_images_of_any_size_become_squares():
    image = np.full((10, 40, 3), 200, np.uint8)
    square = detection._square(image, 20)
    assert square.shape == (20, 20, 3) and (square[:5] == 200).all()
    assert (square[5:] != 200).any()
