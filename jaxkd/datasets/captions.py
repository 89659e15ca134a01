"""Drawn scenes of coloured shapes with captions: text-to-image without download."""

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info, statistics
from jaxkd.drawing import scenes


def load(
    train: int = 12_000,
    test: int = 500,
    single: float = 0.2,
    held_out: bool = False,
    seed: int = 0,
) -> Dataset:
    """Draws scenes; fields ``image`` uint8 ``[32, 32, 3]`` and ``tokens`` int32.

    Args:
      train: scenes to train on.
      test: scenes to evaluate on.
      single: share of the scenes that have one object alone, so that one can be
        deleted.
      held_out: whether to leave ``scenes.HELD_OUT``, pairs of shape and colour, out of
        training; they are among the test scenes.
      seed: of all scenes.

    Raises:
      UserError: for sizes below 1, or a share outside [0, 1].
    """
    if train < 1 or test < 1 or not 0 <= single <= 1:
        raise UserError(
            f"train={train}, test={test}, single={single}; expected sizes of at least "
            "1 and a share of 0 to 1."
        )
    rng = np.random.default_rng(seed)
    known = _source(scenes.draw_scenes(rng, train, single=single, held_out=held_out))
    unseen = _source(scenes.draw_scenes(rng, test, single=single))
    mean, std = statistics(known.arrays["image"][:2_000], "captions")
    shape = (scenes.SIDE, scenes.SIDE, 3)
    return Dataset(
        Info("captions", 0, shape, mean, std, ()), lambda seed: known, unseen
    )


def _source(drawn: scenes.Scenes) -> ArraySource:
    parts = [
        scenes.draw(drawn.take(np.arange(i, min(i + 1_000, len(drawn)))))[0]
        for i in range(0, len(drawn), 1_000)
    ]
    images = np.round(255 * np.concatenate(parts)).astype(np.uint8)
    tokens = scenes.Tokenizer().encode(scenes.captions(drawn))
    return ArraySource({"image": images, "tokens": tokens})
