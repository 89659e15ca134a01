"""Finds faces, and aligns the largest one: eyes, nose and mouth come to fixed places.

The places are ArcFace's (arXiv:1801.07698), with the surroundings that detectors of
forged faces are given: enlarged 1.3 times, 317 pixels a side.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError

# Eyes, nose and corners of the mouth, from left to right in the image, of 112 pixels.
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
TEMPLATE_SIDE, ENLARGE, SIDE = 112, 1.3, 317


class Faces(NamedTuple):
    """The faces found in an image, in pixels.

    Attributes:
      boxes: ``[faces, 4]``: left, top, width, height.
      points: ``[faces, 5, 2]``, across and down, in the order of ``TEMPLATE``.
    """

    boxes: np.ndarray
    points: np.ndarray


# An RGB image uint8 [h, w, 3] -> what is found in it.
Finder = Callable[[np.ndarray], Faces]


def yunet(model: str | Path, threshold: float = 0.6, instead: str = "") -> Finder:
    """Makes a face detector of OpenCV's YuNet.

    Args:
      model: the ONNX file, which OpenCV's model zoo offers.
      threshold: of its scores.
      instead: what else can be done if there is no such file.

    Raises:
      UserError: if the file is missing or OpenCV is not installed.
    """
    cv2 = optional.load("cv2", extra="forensics", purpose="Face detection")
    model = Path(model).expanduser()
    if not model.is_file():
        raise UserError(
            f"There is no face model at {str(model)!r}. Download YuNet's .onnx file "
            f"(OpenCV's model zoo, face_detection_yunet) and give its path{instead}."
        )
    network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), threshold)

    def find(image: np.ndarray) -> Faces:
        network.setInputSize((image.shape[1], image.shape[0]))
        _, found = network.detect(np.ascontiguousarray(image[..., ::-1]))
        rows = np.zeros((0, 15)) if found is None else found
        return Faces(rows[:, :4], rows[:, 4:14].reshape(-1, 5, 2))

    return find


def largest(image: np.ndarray, find: Finder) -> tuple[np.ndarray | None, int, float]:
    """Finds faces and aligns the largest.

    Args:
      image: RGB uint8 ``[h, w, 3]``.
      find: the detector.

    Returns:
      The aligned face uint8 ``[SIDE, SIDE, 3]``, or None if there is none; how many
      were found; the shorter side of its box, in pixels.
    """
    found = find(image)
    if not len(found.boxes):
        return None, 0, 0.0
    sides = found.boxes[:, 2:]
    place = int(np.argmax(sides.prod(axis=1)))
    return align(image, found.points[place]), len(sides), float(sides[place].min())


def align(image: np.ndarray, points: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Turns, scales and cuts an image so that five points of a face come to rest.

    Args:
      image: uint8 ``[h, w, 3]``.
      points: ``[5, 2]`` in pixels, in the order of ``TEMPLATE``.
      side: of the result.

    Returns:
      uint8 ``[side, side, 3]``, black beyond the image.
    """
    from PIL import Image

    scale = side / TEMPLATE_SIDE / ENLARGE
    middle = TEMPLATE_SIDE / 2
    target = (TEMPLATE - middle) * scale + side / 2
    # From the result's pixels to the image's, which is what Pillow asks for.
    back = similarity(target, np.asarray(points, float) + 0.5)
    picture = Image.fromarray(image)
    # Bilinear sampling skips pixels where the image shrinks: it is reduced first.
    factor = max(1, int(np.hypot(*back[:, 0])))
    if factor > 1:
        picture, back = picture.reduce(factor), back / factor
    size, method = (side, side), Image.Transform.AFFINE
    data = tuple(back.ravel())
    return np.array(picture.transform(size, method, data, Image.Resampling.BILINEAR))


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Finds the rotation, scale and shift that maps points to others most closely.

    Least squares, without reflection (Umeyama 1991, equations 40 to 42): in the plane
    a multiplication by a complex number, and a shift.

    Args:
      points: ``[n, 2]``, not all the same.
      target: ``[n, 2]``.

    Returns:
      ``[2, 3]``: ``target`` is about ``points @ m[:, :2].T + m[:, 2]``.
    """
    source, goal = (np.asarray(p, float) @ (1, 1j) for p in (points, target))
    centred = source - source.mean()
    turn = np.vdot(centred, goal - goal.mean()) / np.vdot(centred, centred).real
    shift = goal.mean() - turn * source.mean()
    return np.array(
        [
            [turn.real, -turn.imag, shift.real],
            [turn.imag, turn.real, shift.imag],
        ]
    )
