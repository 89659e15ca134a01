"""Drawn faces of 250 identities: recognition and verification without a download.

200 identities are for training. The test is either of the 50 others (``"unseen"``,
with verification pairs in ten folds that share no identity) or of other images of the
same 200 (``"seen"``, for identification).
"""

import functools

import jax
import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.drawing.faces import Law, draw_identities, draw_images
from jaxkd.readers.identity_pairs import PairedArrays, Pairs, draw_pairs

IDENTITIES, TRAIN, TEST, VALIDATION = range(4)  # folded into the key: never renumber
PEOPLE, STRANGERS = 200, 50
FOLDS = 10
# Of training pixels in [0, 1].
MEAN, STD = (0.46, 0.42, 0.41), (0.26, 0.23, 0.23)
SPLITS = {"test": TEST, "validation": VALIDATION}


def load(
    size: int = 64,
    per_identity: int = 20,
    test: str = "unseen",
    pairs: int = 3_000,
    evaluate_on: str = "test",
    spread: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Makes the data set; training images are drawn when they are first asked for.

    Args:
      size: side of the images.
      per_identity: images of each identity, in the training and in the test.
      test: ``"unseen"`` identities, whose pairs are verified, or ``"seen"`` ones.
      pairs: verification pairs of unseen identities, half of them of one.
      evaluate_on: ``"test"``, or ``"validation"``, which are 50 other people or other
        images of the same, to choose settings.
      spread: factor on the differences between identities; smaller is harder.
      seed: of everything.

    Raises:
      UserError: if an option is out of its range, or there are too few images for so
        many pairs.
    """
    split = lookup.choose(evaluate_on, SPLITS, what="evaluate_on")
    lookup.choose(test, dict.fromkeys(("unseen", "seen")), what="test")
    _check_options(size, per_identity, spread)
    draw = functools.partial(_draw, size, per_identity, spread, seed)

    def training_images(training_seed: int) -> ArraySource:
        del training_seed  # all seeds share the images
        return ArraySource(draw(TRAIN, 0, PEOPLE))

    if test == "seen":
        source: ArraySource = ArraySource(draw(split, 0, PEOPLE))
    else:
        first = PEOPLE + STRANGERS * (split == VALIDATION)
        arrays = draw(split, first, STRANGERS)
        # Validation has people of its own, but the same labels as the test.
        labels = arrays["label"] - first + PEOPLE
        drawn = _pairs(labels, pairs, seed)
        source = PairedArrays(arrays | {"label": labels}, drawn)
    names = tuple(f"person {i}" for i in range(PEOPLE + STRANGERS))
    shape = (size, size, 3)
    info = Info(f"faces-{test}", len(names), shape, MEAN, STD, names)
    return Dataset(info, training_images, source)


def _check_options(size: int, per_identity: int, spread: float) -> None:
    if size < 8:
        raise UserError(f"size is {size}, expected at least 8 pixels.")
    if per_identity < 2:
        raise UserError(
            f"per_identity is {per_identity}, expected at least 2: images of one "
            "person are compared."
        )
    if spread <= 0:
        raise UserError(f"spread is {spread}, expected a positive number.")


def _pairs(labels: np.ndarray, count: int, seed: int) -> Pairs:
    return draw_pairs(labels, count, FOLDS, seed)


@functools.lru_cache(maxsize=8)  # a run of several stages asks for the same images
def _draw(
    size: int,
    per_identity: int,
    spread: float,
    seed: int,
    split: int,
    first: int,
    count: int,
) -> dict[str, np.ndarray]:
    """Draws ``per_identity`` images of each of some people, people in turn."""
    key = jax.random.key(seed, impl="threefry2x32")
    people = draw_identities(jax.random.fold_in(key, IDENTITIES), first, count)
    labels = np.tile(np.arange(first, first + count, dtype=np.int32), per_identity)
    images = draw_images(
        *(jax.random.fold_in(key, split), people[labels - first], size),
        Law(spread=spread),
    )
    arrays = {"image": images, "label": labels}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
