"""Alignment of faces: the similarity in closed form, and where its points come."""

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.readers import face_alignment
from jaxkd.readers.face_alignment import TEMPLATE, Faces


def moved(points, scale, angle, shift):
    turn = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    return points @ turn.T + shift


def test_a_similarity_is_found_again():
    target = moved(TEMPLATE, 1.7, 0.4, (30, -12))
    matrix = face_alignment.similarity(TEMPLATE, target)
    np.testing.assert_allclose(TEMPLATE @ matrix[:, :2].T + matrix[:, 2], target)
    np.testing.assert_allclose(np.linalg.det(matrix[:, :2]), 1.7**2)


def test_it_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    target = moved(TEMPLATE, 0.5, -2.0, (3, 4)) + 5 * rng.normal(size=(5, 2))
    matrix = face_alignment.similarity(TEMPLATE, target)
    # The same, as four linear unknowns: a, b, and the shift.
    x, y = TEMPLATE.T
    zero, one = np.zeros(5), np.ones(5)
    rows = np.concatenate(
        [np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)]
    )
    a, b, *shift = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(matrix, [[a, -b, shift[0]], [b, a, shift[1]]])


@pytest.mark.parametrize("scale", [0.8, 5.0])
def test_points_come_to_the_places_of_the_template(scale):
    """A bright spot at each point: its middle, in the aligned image."""
    points = moved(TEMPLATE - 56, scale, 0.3, (330, 330))
    down, across = np.mgrid[:700, :700]
    for place, (x, y) in enumerate(points):
        spot = np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * (3 * scale) ** 2))
        image = np.repeat(np.rint(255 * spot)[..., None], 3, -1).astype(np.uint8)
        found = face_alignment.align(image, points, 130)[..., 0].astype(float)
        rows, columns = np.mgrid[:130, :130] + 0.5
        middle = [(grid * found).sum() / found.sum() for grid in (columns, rows)]
        # 130 pixels show 1.3 times the template's 112: a scale of 112 / 112 and shift.
        expected = (TEMPLATE[place] - 56) * (130 / 112 / 1.3) + 65
        np.testing.assert_allclose(middle, expected, atol=0.3)


def test_the_largest_face_is_taken_and_others_counted():
    boxes = np.array([[0, 0, 20, 20], [100, 100, 60, 70], [5, 5, 30, 30]], float)
    points = np.stack([moved(TEMPLATE, 0.5, 0, box[:2]) for box in boxes])
    image = np.zeros((300, 300, 3), np.uint8)
    image[100:200, 100:200] = 200

    face, count, side = face_alignment.largest(image, lambda _: Faces(boxes, points))
    assert (face.shape, count, side) == ((317, 317, 3), 3, 60)
    assert face[100:250, 100:250].min() > 150  # within the bright square
    none = Faces(np.zeros((0, 4)), np.zeros((0, 5, 2)))
    assert face_alignment.largest(image, lambda _: none) == (None, 0, 0.0)


def test_a_missing_model_is_named(tmp_path):
    pytest.importorskip("cv2")
    with pytest.raises(UserError, match=r"no face model at .*none\.onnx'.*its path\."):
        face_alignment.yunet(tmp_path / "none.onnx")


def test_rows_of_the_detector_are_taken_apart(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    seen = []

    class Network:
        def setInputSize(self, size):
            seen.append(size)

        def detect(self, image):
            seen.append(image[0, 0].tolist())
            return 1, None if len(seen) > 2 else np.arange(15.0)[None]

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: Network())
    (tmp_path / "model.onnx").touch()
    find = face_alignment.yunet(tmp_path / "model.onnx")
    image = np.zeros((10, 20, 3), np.uint8)
    image[..., 0] = 9  # red, which OpenCV wants last
    found = find(image)
    assert seen == [(20, 10), [0, 0, 9]]
    assert found.boxes.tolist() == [[0, 1, 2, 3]]
    assert found.points[0].tolist() == [[4, 5], [6, 7], [8, 9], [10, 11], [12, 13]]
    assert find(image).points.shape == (0, 5, 2)
