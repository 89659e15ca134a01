"""CUB-200-2011: 200 kinds of birds, by kind or for retrieval of unseen kinds.

Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
"""

from pathlib import Path

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Info
from jaxkd.readers.identity_pairs import (
    ImageFiles,
    check_files,
    read_lines,
    squash_crop,
)
from jaxkd.readers.images import IMAGENET_MEAN, IMAGENET_STD

FOLDER = "CUB_200_2011"
CLASSES = 200
_ADVICE = (
    "Unpack CUB_200_2011.tgz (data.caltech.edu, CUB-200-2011) there, or set root to "
    "the folder that holds CUB_200_2011."
)
# Kinds of the training and of the test, first and beyond the last.
METRIC_SPLITS = {
    "metric": ((0, 100), (100, 200)),
    "metric_validation": ((0, 80), (80, 100)),
}


def load(root: str = "data", split: str = "classification", size: int = 224) -> Dataset:
    """Lists the images; none is decoded yet.

    They are squashed and cropped by ``recognition.squash_crop``.

    Args:
      root: folder that holds ``CUB_200_2011``.
      split: ``"classification"``, the official one of images; ``"metric"``, kinds 1 to
        100 for training and the rest for the test, the usual one of metric learning; or
        ``"metric_validation"``, kinds 1 to 80 and 81 to 100, to choose settings.
      size: side of the crops.

    Raises:
      UserError: if a file is missing, or the lists contradict each other.
    """
    top = Path(root).expanduser() / FOLDER
    splits = ("classification", *METRIC_SPLITS)
    lookup.choose(split, dict.fromkeys(splits), what="split")
    paths, labels, for_training = _read(top)
    if split in METRIC_SPLITS:
        parts = [
            (labels >= low) & (labels < high) for low, high in METRIC_SPLITS[split]
        ]
    else:
        parts = [for_training, ~for_training]
    train, test = (
        ImageFiles([paths[i] for i in np.flatnonzero(part)], labels[part])
        for part in parts
    )
    names = _names(top)
    info = Info(
        *(f"cub200-{split}", CLASSES, (size, size, 3)),
        *(IMAGENET_MEAN, IMAGENET_STD, names),
    )
    return Dataset(info, lambda seed: train, test, *squash_crop(size))


def _read(top: Path) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Returns the paths, labels from 0, and which images are for training."""
    names = _table(top / "images.txt", str)
    labels = _table(top / "image_class_labels.txt", int)
    flags = _table(top / "train_test_split.txt", int)
    for name, table in (("image_class_labels", labels), ("train_test_split", flags)):
        if table.keys() != names.keys():
            raise UserError(
                f"{top / name}.txt describes {len(table):,} images, images.txt "
                f"{len(names):,}, expected the same ones. {_ADVICE}"
            )
    keys = sorted(names)
    label = np.array([labels[key] for key in keys], np.int32) - 1
    wrong = np.flatnonzero((label < 0) | (label >= CLASSES))
    if wrong.size:
        raise UserError(
            f"{top / 'image_class_labels.txt'}: image {keys[wrong[0]]} has class "
            f"{label[wrong[0]] + 1}, expected 1 to {CLASSES}. {_ADVICE}"
        )
    paths = [top / "images" / names[key] for key in keys]
    check_files(paths, top / "images.txt", _ADVICE)
    return paths, label, np.array([flags[key] == 1 for key in keys])


def _names(top: Path) -> tuple[str, ...]:
    names = _table(top / "classes.txt", str)
    if sorted(names) != list(range(1, CLASSES + 1)):
        raise UserError(
            f"{top / 'classes.txt'} names {len(names)} classes, expected {CLASSES}, "
            f"numbered from 1. {_ADVICE}"
        )
    return tuple(names[key] for key in sorted(names))


def _table(path: Path, kind: type) -> dict:
    """Reads lines ``number value``."""
    table = {}
    for line, text in enumerate(read_lines(path, _ADVICE), start=1):
        try:
            key, value = text.split()
            table[int(key)] = kind(value)
        except ValueError as error:
            raise UserError(
                f"{path}, line {line}, is {text!r}, expected a number and one word. "
                f"{_ADVICE}"
            ) from error
    return table
