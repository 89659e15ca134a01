"""LFW, Labeled Faces in the Wild: verification of 6,000 pairs in ten folds.

Huang et al., "Labeled Faces in the Wild: A Database for Studying Face Recognition in
Unconstrained Environments", 2007, view 2. LFW is a test: networks are trained on other
people's images, a folder of identities such as CASIA-WebFace.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import lookup, parsing
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Info
from jaxkd.datasets.identities import MEAN, STD, list_identities
from jaxkd.readers.identity_pairs import (
    ImageFiles,
    Pairs,
    check_files,
    read_lines,
    resize_only,
)

_ADVICE = (
    "LFW and its pairs.txt (view 2) are at vis-www.cs.umass.edu/lfw; set root to the "
    "folder that holds lfw/<Name>/<Name>_0001.jpg and pairs.txt."
)


class Listed(NamedTuple):
    """A pairs file as it stands: images by (name, number)."""

    first: list[tuple[str, int]]
    second: list[tuple[str, int]]
    same: np.ndarray
    fold: np.ndarray


def load(
    root: str = "data",
    train: str = "",
    size: int = 112,
    folder: str = "lfw",
    pairs: str = "pairs.txt",
    overlap: str = "refuse",
    enlarge: bool = False,
) -> Dataset:
    """Lists the images; none is decoded yet.

    The test images are those that the pairs name, each once; the middle square of an
    image is resized to ``size``.

    Args:
      root: folder that holds the images and the pairs file.
      train: folder of identities to train on, ``train/<identity>/<image files>``.
      size: side of the images as the view gets them.
      folder: of the images in ``root``, such as ``"lfw-aligned-112"``.
      pairs: name of the pairs file in ``root``.
      overlap: what is done when an identity of ``train`` bears a name that the pairs
        bear: ``"refuse"``, or ``"drop"`` it from the training.
      enlarge: whether images smaller than ``size`` are enlarged, not refused.

    Raises:
      UserError: if a file is missing, the pairs file is damaged, or people of the test
        are also in ``train``.
    """
    lookup.choose(overlap, dict.fromkeys(("refuse", "drop")), what="overlap")
    top = Path(root).expanduser()
    listed = read_pairs(top / pairs)
    if not train:
        raise UserError(
            "LFW is a test and has no training images. Set train to a folder of other "
            "people's images, train/<identity>/<image files>."
        )
    known = _training(Path(train).expanduser(), listed, overlap)
    names = tuple(sorted(known))
    people = sorted({name for name, _ in (*listed.first, *listed.second)})
    numbers = {name: len(names) + i for i, name in enumerate(people)}
    least = 1 if enlarge else size
    test = _test(top / folder, top / pairs, listed, numbers, least)
    paths = [path for name in names for path in known[name]]
    counts = [len(known[name]) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    source = ImageFiles(paths, labels, least=least)
    info = Info(
        *("lfw", len(names) + len(people), (size, size, 3), MEAN, STD),
        (*names, *(f"lfw/{name}" for name in people)),
    )
    return Dataset(info, lambda seed: source, test, *resize_only(size))


def read_pairs(path: Path) -> Listed:
    """Reads a pairs file.

    Its first line has the folds and the pairs of one person in each, ``10<TAB>300``;
    then each fold has as many lines ``name i j`` and as many ``name1 i name2 j``.

    Raises:
      UserError: if it is missing, cut short, or has a line of another form.
    """
    lines = read_lines(path, _ADVICE)
    try:
        folds, half = (int(word) for word in lines[0].split())
    except ValueError as error:
        raise UserError(
            f"{path}, line 1, is {lines[0]!r}, expected the numbers of folds and of "
            f"pairs of each kind in a fold, such as '10 300'. {_ADVICE}"
        ) from error
    if min(folds, half) < 1 or len(lines) - 1 != 2 * folds * half:
        raise UserError(
            f"{path} has {len(lines) - 1} pairs, expected {2 * folds * half}: {folds} "
            f"folds of {half} pairs of one person and {half} of two. {_ADVICE}"
        )
    same = np.tile(np.repeat([True, False], half), folds)
    rows = [
        _parse(line, bool(one), path, number)
        for number, (line, one) in enumerate(zip(lines[1:], same, strict=True), start=2)
    ]
    first, second = ([row[i] for row in rows] for i in range(2))
    return Listed(first, second, same, np.repeat(np.arange(folds), 2 * half))


def _parse(line: str, same: bool, path: Path, number: int):
    words = line.split("\t") if "\t" in line else line.split()
    try:
        if same:
            name, i, j = words
            if int(i) == int(j):
                raise UserError(
                    f"{path}, line {number}: a pair names image {i} of {name!r} twice, "
                    f"expected two images. {_ADVICE}"
                )
            return (name, int(i)), (name, int(j))
        name, i, other, j = words
        if name == other:
            raise UserError(
                f"{path}, line {number}: a pair of two people names {name!r} twice, "
                f"expected two names. {_ADVICE}"
            )
        return (name, int(i)), (other, int(j))
    except ValueError as error:
        wanted = "'name i j'" if same else "'name1 i name2 j'"
        raise UserError(
            f"{path}, line {number}, is {line!r}, expected {wanted}. {_ADVICE}"
        ) from error


def _training(folder: Path, listed: Listed, overlap: str) -> dict[str, list[str]]:
    known = list_identities(folder)
    both = sorted({name for name, _ in (*listed.first, *listed.second)} & set(known))
    if both and overlap == "refuse":
        raise UserError(
            f"{folder} has {len(both)} people of LFW's pairs, such as {both[0]}; "
            "expected none: the test would know them. Remove them, or set "
            "overlap='drop'."
        )
    kept = {name: paths for name, paths in known.items() if name not in set(both)}
    if not kept:
        raise UserError(f"{folder} has nobody left to train on but people of the test.")
    return kept


def _test(folder: Path, file: Path, listed: Listed, numbers, least: int) -> ImageFiles:
    """Lists every image of the pairs once, with the pairs as places in that list."""
    images = sorted({*listed.first, *listed.second})
    place = {image: i for i, image in enumerate(images)}
    paths = [_find(folder, *image) for image in images]
    check_files(paths, file, _ADVICE)
    first, second = (
        np.array([place[image] for image in side])
        for side in (listed.first, listed.second)
    )
    labels = np.array([numbers[name] for name, _ in images], np.int32)
    pairs = Pairs(first, second, listed.same, listed.fold)
    return ImageFiles(paths, labels, least=least, pairs=pairs)


_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def _find(folder: Path, name: str, number: int) -> Path:
    """Returns the image's path, with whichever of the usual suffixes is there."""
    stem = f"{name}_{number:04d}"  # names may hold dots: no with_suffix
    found = [folder / name / f"{stem}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in found if parsing.is_file(path)), found[0])
