"""Cars196: 196 models of cars, by model or for retrieval of unseen models.

Krause et al., "3D Object Representations for Fine-Grained Categorization", 2013.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.parsing import parsing
from jaxkd.core.source import Dataset, Info
from jaxkd.readers.identity_pairs import ImageFiles, check_files, squash_crop
from jaxkd.readers.images import IMAGENET_MEAN, IMAGENET_STD
from jaxkd.readers.matlab import read_mat

CLASSES = 196
ANNOTATIONS = "cars_annos.mat"
_ADVICE = (
    "Put cars_annos.mat and the unpacked car_ims.tgz of the Cars data set of Stanford "
    "into that folder, or set root."
)
METRIC_SPLIT = ((0, 98), (98, 196))


def load(root: str = "data", split: str = "classification", size: int = 224) -> Dataset:
    """Lists the images; none is decoded yet.

    They are squashed and cropped by ``recognition.squash_crop``.

    Args:
      root: folder that holds ``cars_annos.mat`` and ``car_ims``.
      split: ``"classification"``, the official one of images; or ``"metric"``, models
        1 to 98 for training and the rest for the test, as usual in metric learning.
      size: side of the crops.

    Raises:
      UserError: if a file is missing or damaged, or a class out of range.
    """
    top = Path(root).expanduser()
    splits = ("classification", "metric")
    lookup.choose(split, dict.fromkeys(splits), what="split")
    paths, labels, for_test, names = _read(top)
    if split == "metric":
        parts = [(labels >= low) & (labels < high) for low, high in METRIC_SPLIT]
    else:
        parts = [~for_test, for_test]
    train, test = (
        ImageFiles([paths[i] for i in np.flatnonzero(part)], labels[part])
        for part in parts
    )
    info = Info(
        *(f"cars196-{split}", CLASSES, (size, size, 3)),
        *(IMAGENET_MEAN, IMAGENET_STD, names),
    )
    return Dataset(info, lambda seed: train, test, *squash_crop(size))


def _read(top: Path) -> tuple[list[Path], np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns paths, labels from 0, which images are for the test, class names."""
    file = top / ANNOTATIONS
    content = read_mat(file, ("annotations", "class_names"), _ADVICE)
    rows = content["annotations"].reshape(-1)
    fields = rows.dtype.names or ()
    missing = [n for n in ("relative_im_path", "class", "test") if n not in fields]
    if missing or not len(rows):
        raise UserError(
            f"{file}: the annotations have the fields {', '.join(fields) or 'none'}, "
            f"expected relative_im_path, class and test for each image. {_ADVICE}"
        )
    with parsing(file, "the annotations of Cars-196", _ADVICE):
        paths = [top / str(_only(row["relative_im_path"], file)) for row in rows]
        classes = [int(_only(row["class"], file)) for row in rows]
        labels = np.array(classes, np.int32) - 1
    wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if wrong.size:
        raise UserError(
            f"{file}: image {paths[wrong[0]]} has class {labels[wrong[0]] + 1}, "
            f"expected 1 to {CLASSES}. {_ADVICE}"
        )
    check_files(paths, file, _ADVICE)
    with parsing(file, "the annotations of Cars-196", _ADVICE):
        names = tuple(str(_only(n, file)) for n in content["class_names"].reshape(-1))
        test = np.array([bool(_only(row["test"], file)) for row in rows])
    if len(names) != CLASSES:
        raise UserError(f"{file} has {len(names)} class names, expected {CLASSES}.")
    return paths, labels, test, names


def _only(cell: Any, file: Path) -> Any:
    """Unwraps what MATLAB keeps as an array of one element."""
    values = np.asarray(cell).reshape(-1)
    if len(values) != 1:
        raise UserError(
            f"{file}: a field has {len(values)} values, expected one. {_ADVICE}"
        )
    return values[0]
