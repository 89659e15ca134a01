"""Drawn scenes of digits with boxes: detection with nothing to download.

Fields: ``image`` uint8, ``boxes`` float32 ``[most, 4]`` (left, top, right, bottom, in
pixels) and ``classes`` int32 ``[most]``, -1 for padding.
"""

import functools

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.drawing.detection_scenes import CLASSES, draw_scene

TRAIN, TEST, VALIDATION = range(3)  # seed the generator, so never renumber
STATISTICS = ((0.5,) * 3, (0.25,) * 3)


def load(
    side: int = 96,
    most: int = 5,
    classes: int = len(CLASSES),
    train: int = 2_000,
    test: int = 500,
    evaluate_on: str = "test",
    seed: int = 0,
) -> Dataset:
    """Makes the data set.

    Args:
      side: of the images.
      most: digits in an image; there is at least one.
      classes: digits are below it.
      train: images for training.
      test: images to evaluate on.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of the scenes.

    Raises:
      UserError: if an option is out of its range.
    """
    splits = {"test": TEST, "validation": VALIDATION}
    split = lookup.choose(evaluate_on, splits, what="evaluate_on")
    if side < 48 or min(most, classes, train, test) < 1 or classes > len(CLASSES):
        raise UserError(
            f"detection_scenes: side={side}, most={most}, classes={classes}, "
            f"train={train}, test={test}; expected a side of at least 48 pixels, 1 to "
            f"{len(CLASSES)} classes, and at least one of the others."
        )
    names, kind = CLASSES[:classes], (side, most, classes)
    training = ArraySource(_draw(*kind, train, seed, TRAIN))
    info = Info("detection_scenes", classes, (side, side, 3), *STATISTICS, names)
    return Dataset(
        info, lambda seed: training, ArraySource(_draw(*kind, test, seed, split))
    )


@functools.lru_cache(maxsize=8)
def _draw(side: int, most: int, classes: int, count: int, seed: int, split: int):
    arrays: dict[str, np.ndarray] = {
        "image": np.zeros((count, side, side, 3), np.uint8),
        "boxes": np.zeros((count, most, 4), np.float32),
        "classes": np.full((count, most), -1, np.int32),
    }
    for index in range(count):
        rng = np.random.default_rng((seed, split, index))
        image, objects = draw_scene(rng, side=side, count=(1, most), classes=classes)
        found = len(objects.classes)
        arrays["image"][index] = image
        arrays["boxes"][index, :found] = objects.boxes
        arrays["classes"][index, :found] = objects.classes
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
