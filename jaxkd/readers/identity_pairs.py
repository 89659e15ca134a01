"""What the readers of recognition data share: listed image files, pairs, crops.

In recognition the people, birds or cars of the test are often not those of the
training. ``Info.num_classes`` then counts both, so that every label is in range and has
a name; the classes of the test simply do not occur while training.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Example
from jaxkd.readers.images import decode, resize

MIN_IDENTITIES = 2  # in a fold, to make a pair of two people


class Pairs(NamedTuple):
    """Pairs of test images, of which one asks whether they show the same.

    Attributes:
      first: ``[pairs]``, places in the test source.
      second: ``[pairs]``, likewise.
      same: ``[pairs]``, boolean.
      fold: ``[pairs]``, number of the fold that a pair belongs to.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray


class PairedArrays(ArraySource):
    """Arrays in memory with verification pairs of their examples."""

    def __init__(self, arrays: dict[str, np.ndarray], pairs: Pairs | None):
        super().__init__(arrays)
        self.pairs = pairs


class ImageFiles:
    """Image files with their labels, decoded when they are asked for."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: np.ndarray,
        *,
        least: int = 1,
        pairs: Pairs | None = None,
    ):
        """Remembers the files.

        Args:
          paths: of the files.
          labels: int32 ``[files]``.
          least: pixels that the shorter side must have.
          pairs: verification pairs of the files.
        """
        self.paths, self.labels = [str(path) for path in paths], labels
        self.least, self.pairs = least, pairs

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        image = decode(Path(self.paths[index]))
        height, width = image.shape[:2]
        if min(height, width) < self.least:
            raise UserError(
                f"{self.paths[index]} has {height} x {width} pixels, expected at least "
                f"{self.least} on both sides. Remove it, ask for a smaller size, or "
                "allow enlarging with enlarge=True."
            )
        return {"image": image, "label": self.labels[index]}


def pairs_of(source: Any) -> Pairs | None:
    """Returns the verification pairs of a source, or None if it has none."""
    return getattr(source, "pairs", None)


def draw_pairs(labels: np.ndarray, count: int, folds: int, seed: int) -> Pairs:
    """Draws balanced verification pairs in folds that share no identity.

    Every fold has ``count / folds`` pairs, the first half of one identity, the second
    of two, each pair at most once. Huang et al., "Labeled Faces in the Wild", 2007,
    section III: the same form.

    Args:
      labels: ``[examples]``, identities.
      count: pairs in all, a multiple of ``2 * folds``.
      folds: their number.
      seed: of the drawing.

    Raises:
      UserError: if there are too few identities or images for so many pairs.
    """
    if count <= 0 or count % (2 * folds):
        raise UserError(
            f"{count} pairs were asked for, expected a positive multiple of "
            f"{2 * folds}: "
            f"as many of one identity as of two, in each of {folds} folds."
        )
    rng = np.random.default_rng(seed)
    identities = rng.permutation(np.unique(labels))
    if len(identities) < MIN_IDENTITIES * folds:
        raise UserError(
            f"There are {len(identities)} identities for {folds} folds, expected at "
            f"least {MIN_IDENTITIES * folds}: folds share no identity. Ask for fewer."
        )
    half = count // folds // 2
    drawn = []
    for fold, members in enumerate(np.array_split(identities, folds)):
        first, second = np.triu_indices(np.isin(labels, members).sum(), k=1)
        places = np.flatnonzero(np.isin(labels, members))
        first, second = places[first], places[second]
        same = labels[first] == labels[second]
        for kind in (True, False):
            among = np.flatnonzero(same == kind)
            if len(among) < half:
                raise UserError(
                    f"Fold {fold} has only {len(among)} pairs of "
                    f"{'one identity' if kind else 'two identities'}, expected {half}. "
                    "Ask for fewer pairs or folds, or add images."
                )
            chosen = np.sort(rng.choice(among, half, replace=False))
            drawn.append((first[chosen], second[chosen], same[chosen], fold))
    first, second, same = (np.concatenate([d[i] for d in drawn]) for i in range(3))
    return Pairs(first, second, same, np.repeat([d[3] for d in drawn], half))


def squash_crop(
    size: int,
) -> tuple[Callable[[Example, np.random.Generator], Example], Callable]:
    """Makes the preparations of metric learning: squash to a square, then crop.

    Images are resized to ``size * 256 / 224`` on both sides whatever their aspect,
    and cropped to ``size``: at random for training, in the middle for evaluation. As in
    the public code of RKD (arXiv:1904.05068). Smaller images are enlarged.

    Args:
      size: side of the crops.

    Returns:
      The preparation of training, ``(example, rng) -> example``, and that of
      evaluation.
    """
    side = round(size * 256 / 224)

    def crop(example: Example, top: int, left: int) -> Example:
        image = resize(example["image"], (side, side))
        return example | {"image": image[top : top + size, left : left + size]}

    def train(example: Example, rng: np.random.Generator) -> Example:
        top, left = rng.integers(side - size + 1, size=2)
        return crop(example, int(top), int(left))

    def evaluate(example: Example) -> Example:
        return crop(example, (side - size) // 2, (side - size) // 2)

    return train, evaluate


def resize_only(
    size: int,
) -> tuple[Callable[[Example, np.random.Generator], Example], Callable]:
    """Makes preparations for images that are aligned already: the middle square.

    The largest central square is resized to ``size``; nothing is random.

    Args:
      size: side of the result.
    """

    def evaluate(example: Example) -> Example:
        height, width = example["image"].shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = example["image"][top : top + side, left : left + side]
        return example | {"image": resize(square, (size, size))}

    return lambda example, rng: evaluate(example), evaluate


def read_lines(path: Path, advice: str) -> list[str]:
    """Reads the lines of a text file that are not empty.

    Args:
      path: of the file.
      advice: ends the error message: where to get the file.

    Raises:
      UserError: if it is missing, empty or not text.
    """
    text = parsing.read_text(path, "a list", advice)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty. {advice}")
    return lines


def check_files(paths: Sequence[Path], listed_in: Path, advice: str) -> None:
    """Raises UserError naming the first of the files that do not exist."""
    missing = [path for path in paths if not parsing.is_file(path)]
    if missing:
        raise UserError(
            f"{listed_in} names {len(missing):,} image(s) that are not there, the "
            f"first is {missing[0]} (of {len(paths):,}). {advice}"
        )
