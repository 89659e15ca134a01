"""Drawn words of digits and capitals: lines of text with nothing to download.

Fields: ``image`` uint8, ``tokens`` int32 ``[slots]`` (0 is the end and what follows it,
from 1 on the characters) and ``length`` int32, the characters with the end.
"""

import functools

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.drawing.words import ALPHABET, draw_words

TRAIN, TEST, VALIDATION = range(3)  # seed the generator, so never renumber
STATISTICS = ((0.5,) * 3, (0.3,) * 3)


def load(
    height: int = 16,
    width: int = 64,
    least: int = 4,
    most: int = 4,
    train: int = 4_000,
    test: int = 1_000,
    evaluate_on: str = "test",
    seed: int = 0,
) -> Dataset:
    """Makes the data set.

    Args:
      height: of the images.
      width: likewise.
      least: characters of the shortest words.
      most: of the longest; there is one slot more, for the end.
      train: words for training.
      test: words to evaluate on.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of the words.

    Raises:
      UserError: if an option is out of its range.
    """
    splits = {"test": TEST, "validation": VALIDATION}
    split = lookup.choose(evaluate_on, splits, what="evaluate_on")
    if not 1 <= least <= most or min(train, test) < 1 or height < 8 or width < 8 * most:
        raise UserError(
            f"words: least={least}, most={most}, train={train}, test={test}, "
            f"height={height}, width={width}; expected 1 <= least <= most, at least "
            "one word, and 8 pixels for each character."
        )
    size = (height, width, least, most)
    training = ArraySource(_draw(*size, train, (seed, TRAIN)))
    # num_classes counts what a slot can hold; there is no field ``label``.
    names = ("end", *ALPHABET)
    info = Info("words", len(names), (height, width, 3), *STATISTICS, names)
    test_words = ArraySource(_draw(*size, test, (seed, split)))
    return Dataset(info, lambda seed: training, test_words)


@functools.lru_cache(maxsize=8)
def _draw(
    height: int, width: int, least: int, most: int, count: int, seed: tuple[int, ...]
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    words = rng.integers(len(ALPHABET), size=(count, most))
    lengths = rng.integers(least, most + 1, count)
    words[np.arange(most) >= lengths[:, None]] = -1
    tokens = np.pad(words + 1, ((0, 0), (0, 1))).astype(np.int32)
    arrays = {
        "image": draw_words(words, height=height, width=width, rng=rng),
        "tokens": tokens,
        "length": (lengths + 1).astype(np.int32),
    }
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
