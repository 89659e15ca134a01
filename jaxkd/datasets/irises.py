"""Drawn irises: super-resolution and recognition with nothing to download.

Test identities are not among those of training. Fields: ``image`` uint8
``[side, side, 1]``, ``label`` int32, the identity, and ``circles`` float32 ``[4]``: the
centre (x, y) and the radii of pupil and iris, in pixels, as a perfect segmentation.
"""

import functools

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.drawing.irises import draw_iris, texture

TRAIN, TEST, VALIDATION = range(3)  # seed the generator, so never renumber
FIRST = {TRAIN: 0, TEST: 100_000, VALIDATION: 200_000}  # identities never meet


def load(
    side: int = 64,
    train_identities: int = 60,
    test_identities: int = 20,
    each: int = 6,
    evaluate_on: str = "test",
    seed: int = 0,
) -> Dataset:
    """Makes the data set.

    Args:
      side: of the images.
      train_identities: irises to learn from.
      test_identities: irises to recognise.
      each: photographs of an iris.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of the irises.

    Raises:
      UserError: if an option is out of its range.
    """
    splits = {"test": TEST, "validation": VALIDATION}
    split = lookup.choose(evaluate_on, splits, what="evaluate_on")
    if side < 32 or train_identities < 1 or test_identities < 2 or each < 2:
        raise UserError(
            f"irises: side={side}, train_identities={train_identities}, "
            f"test_identities={test_identities}, each={each}; expected at least 32 "
            "pixels, one iris to learn from, and two to tell apart by two photographs."
        )
    training = ArraySource(_draw(side, train_identities, each, seed, TRAIN))
    testing = ArraySource(_draw(side, test_identities, each, seed, split))
    # The labels are identities, which are no classes of a network.
    info = Info("irises", 0, (side, side, 1), (0.5,), (0.25,), ())
    return Dataset(info, lambda seed: training, testing)


@functools.lru_cache(maxsize=8)
def _draw(side: int, identities: int, each: int, seed: int, split: int):
    images, circles = [], []
    for identity in range(identities):
        pattern = texture(FIRST[split] + identity, seed=seed)
        for number in range(each):
            rng = np.random.default_rng((seed, split, identity, number))
            image, place = draw_iris(pattern, rng, side=side)
            images.append(image)
            circles.append(place)
    arrays = {
        "image": np.stack(images),
        "label": np.repeat(np.arange(identities), each).astype(np.int32),
        "circles": np.asarray(circles, np.float32),
    }
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
