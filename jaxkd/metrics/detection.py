"""Average precision of detections, computed by the COCO evaluator itself."""

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxkd.core import optional

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


class ImageBoxes(NamedTuple):
    """The objects of one image: corners ``(left, top, right, bottom)`` in pixels.

    Attributes:
      boxes: ``[objects, 4]``.
      classes: integers ``[objects]``; -1 is padding, and of the truth ``crowd(k)`` is a
        region of many objects of class ``k``.
      scores: ``[objects]``; None for the truth.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None


def crowd(label: int) -> int:
    """Returns the class that marks a crowd of a class, or the class of such a mark.

    >>> crowd(0), crowd(7), crowd(crowd(7))
    (-2, -9, 7)
    """
    return -2 - label


def average_precision(
    predictions: Sequence[ImageBoxes], truths: Sequence[ImageBoxes]
) -> dict[str, float]:
    """Computes COCO's average precisions with pycocotools.

    Detections inside a crowd of their class are neither hits nor false alarms.

    Args:
      predictions: of each image, with scores.
      truths: of each image.

    Returns:
      ``ap`` (the mean over overlaps 0.5 to 0.95), ``ap50``, ``ap75`` and, by the area
      of the objects (32^2 and 96^2 pixels), ``ap_small``, ``ap_medium``, ``ap_large``;
      NaN where there is no object (but crowds).

    Raises:
      ValueError: if there are not as many predictions as truths.
      UserError: without pycocotools.
    """
    if len(predictions) != len(truths):
        raise ValueError(
            f"there are predictions of {len(predictions)} images and truths of "
            f"{len(truths)}, expected as many."
        )
    library = {"extra": "detection", "purpose": "COCO's average precision"}
    COCO = optional.load("pycocotools.coco", **library).COCO
    COCOeval = optional.load("pycocotools.cocoeval", **library).COCOeval

    annotations = [row for row in _rows(truths)]
    if not annotations:
        return dict.fromkeys(NAMES, float("nan"))
    classes = sorted({row["category_id"] for row in annotations})
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        truth = COCO()
        truth.dataset = {
            "images": [{"id": index} for index in range(len(truths))],
            "annotations": annotations,
            "categories": [{"id": index} for index in classes],
        }
        truth.createIndex()
        found = COCO()
        found.dataset = truth.dataset | {"annotations": list(_rows(predictions))}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.where(evaluation.stats[:6] < 0, np.nan, evaluation.stats[:6])
    return dict(zip(NAMES, map(float, values), strict=True))


def _rows(images: Sequence[ImageBoxes]):
    """Yields annotations as COCO writes them."""
    number = 0
    for image, objects in enumerate(images):
        for place, (box, label) in enumerate(
            zip(objects.boxes, objects.classes, strict=True)
        ):
            is_crowd = label < -1 and objects.scores is None
            if label < 0 and not is_crowd:
                continue
            left, top, right, bottom = map(float, box)
            number += 1  # the evaluator takes 0 for no match
            row = {
                "id": number,
                "image_id": image,
                "category_id": crowd(int(label)) if is_crowd else int(label),
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(is_crowd),
            }
            if objects.scores is not None:
                row["score"] = float(objects.scores[place])
            yield row
