"""SVHN, house numbers: the cropped digits, 32 x 32, of the official MATLAB files.

Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning",
2011. In the files the digit 0 has the label 10.
"""

from pathlib import Path

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info, statistics
from jaxkd.readers.matlab import read_mat

COUNTS = (73_257, 26_032)  # official training and test images
FILES = ("train_32x32.mat", "test_32x32.mat")
_ADVICE = (
    "Download {name} of the cropped digits (format 2) from "
    "ufldl.stanford.edu/housenumbers into that folder, or set root."
)


def load(root: str = "data") -> Dataset:
    """Reads ``train_32x32.mat`` and ``test_32x32.mat`` from ``root``.

    Raises:
      UserError: if a file is missing or damaged, or has not the official number of
        images.
    """
    return read(Path(root).expanduser(), COUNTS)


def read(root: Path, counts: tuple[int, int]) -> Dataset:
    """Reads the data set.

    Args:
      root: where the files are.
      counts: of training and test images that the files must hold.

    Raises:
      UserError: as for ``load``.
    """
    train, test = (
        _split(root / name, count) for name, count in zip(FILES, counts, strict=True)
    )
    mean, std = statistics(train.arrays["image"], str(root / FILES[0]))
    names = tuple(str(digit) for digit in range(10))
    return Dataset(
        Info("svhn", 10, (32, 32, 3), mean, std, names), lambda seed: train, test
    )


def _split(path: Path, count: int) -> ArraySource:
    content = read_mat(path, ("X", "y"), _ADVICE.format(name=path.name))
    images, labels = content["X"], content["y"]
    if (images.shape, images.dtype) != ((32, 32, 3, count), np.uint8):
        raise UserError(
            f"{path}: X is {images.dtype} {images.shape}, expected uint8 "
            f"{(32, 32, 3, count)}. {_ADVICE.format(name=path.name)}"
        )
    if labels.shape not in ((count, 1), (1, count)):
        raise UserError(f"{path}: y is {labels.shape}, expected {(count, 1)}.")
    labels = labels.reshape(-1)
    wrong = np.flatnonzero((labels < 1) | (labels > 10) | (labels != labels // 1))
    if wrong.size:
        raise UserError(
            f"{path}: image {wrong[0]} has label {labels[wrong[0]]}, expected 1 to 10, "
            f"where 10 is the digit 0 ({wrong.size} such labels)."
        )
    return ArraySource(
        {
            "image": np.ascontiguousarray(images.transpose(3, 0, 1, 2)),
            "label": (labels % 10).astype(np.int32),
        }
    )
