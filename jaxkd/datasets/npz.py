"""Somebody's own images in one ``.npz`` file, the quickest way to bring a data set.

The arrays are ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``;
files of the MedMNIST collection have this form already.
"""

from pathlib import Path
from typing import Annotated

import numpy as np

from jaxkd.core import arrays
from jaxkd.core import class_names as given_names
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Range, Stretch
from jaxkd.core.source import (
    ArraySource,
    Dataset,
    Info,
    check_labels,
    check_layout,
    count_classes,
    statistics,
    to_bytes,
)

MAX_CLASSES = 1_000_000


def load(
    path: str,
    classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    test_split: str = "test",
    value_range: Annotated[Stretch, Range(None)] | None = None,
) -> Dataset:
    """Reads the file; nothing in it is executed.

    Args:
      path: of the file. Images are ``[n, h, w, c]`` or ``[n, h, w]``, labels integers
        ``[n]`` or ``[n, 1]``.
      classes: number of classes; the largest training label plus one if not given, and
        then each class must have a training example.
      class_names: one per class; the numbers if not given, by which classes are then
        joined with those of other runs.
      test_split: arrays to evaluate on, such as ``"val"`` for ``val_images``.
      value_range: the values of black and white; needed unless images are uint8, such
        as ``(0.0, 1.0)`` for floats or ``(0, 65535)`` for uint16. They are rounded to
        the 256 shades between.

    Raises:
      UserError: if the file or an array is missing or not of this form.
    """
    held = _read(Path(path).expanduser(), ("train", test_split))
    if classes is None:
        labels = held["train_labels"].reshape(-1)
        classes = count_classes(labels, MAX_CLASSES, f"{path}: train_labels")
    train, test = (
        _source(held, split, classes, value_range, f"{path}: {split}_")
        for split in ("train", test_split)
    )
    shape = train.arrays["image"].shape[1:]
    if test.arrays["image"].shape[1:] != shape:
        raise UserError(
            f"{path}: test images are {test.arrays['image'].shape[1:]}, training "
            f"images are {shape} (height, width, channels). Make them equal."
        )
    names = tuple(map(str, range(classes)))
    if class_names is not None:
        names = given_names.read(class_names)
    if len(names) != classes:
        raise UserError(f"{len(names)} class_names were given, expected {classes}.")
    mean, std = statistics(train.arrays["image"], str(path))
    info = Info(Path(path).stem, classes, shape, mean, std, names)
    info = info._replace(numbered=class_names is None)
    return Dataset(info, lambda seed: train, test)


def _read(path: Path, splits: tuple[str, str]) -> dict[str, np.ndarray]:
    expected = [f"{split}_{part}" for split in splits for part in ("images", "labels")]
    remedy = "Write it with numpy.savez_compressed."
    with arrays.open_npz(path, "an .npz file of plain arrays", remedy) as content:
        missing = [name for name in expected if name not in content.names]
        if not missing:
            return {name: content.read(name) for name in expected}
        found = ", ".join(content.names) or "none"
    raise UserError(
        f"{path} lacks {' and '.join(missing)}; its arrays are: {found}. Write it with "
        f"numpy.savez_compressed(path, {', '.join(f'{n}=...' for n in expected)})."
    )


def _source(
    held, split: str, classes: int, value_range: tuple | None, origin: str
) -> ArraySource:
    images, labels = held[f"{split}_images"], held[f"{split}_labels"]
    if images.ndim not in (3, 4):
        raise UserError(
            f"{origin}images are {images.dtype} {images.shape}, expected (examples, "
            "height, width, channels) or (examples, height, width)."
        )
    check_layout(images.shape, f"{origin}images")
    if labels.shape not in ((len(images),), (len(images), 1)) or not len(images):
        raise UserError(
            f"{origin}labels are {labels.shape}, expected one per image; images are "
            f"{images.shape}."
        )
    images = to_bytes(images, value_range, f"{origin}images")
    images = images if images.ndim == 4 else images[..., None]
    labels = check_labels(labels.reshape(-1), classes, f"{origin}labels")
    return ArraySource({"image": images, "label": labels})
