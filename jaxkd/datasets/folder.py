"""Image files in class folders, as ImageNet is kept: ``root/train/<class>/*.jpg``.

The class names are the sorted names of the folders in ``train``, or in the order of
``classes``, such as that of a network which was trained elsewhere.
"""

from pathlib import Path

import numpy as np

from jaxkd.core import class_names
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Example, Info
from jaxkd.readers import image_lists, listing
from jaxkd.readers.images import (
    CENTER_CROP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SUFFIXES,
    center_crop,
    decode,
    random_resized_crop,
)

TEST_FOLDERS = ("val", "test")


class FolderSource:
    """Image files and their labels; an image is decoded when it is asked for."""

    def __init__(self, paths: list[str], labels: np.ndarray):
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return {"image": decode(Path(self.paths[index])), "label": self.labels[index]}


def load(
    root: str,
    size: int = 224,
    test_split: str | None = None,
    classes: tuple[str, ...] | str = (),
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Dataset:
    """Lists the images; none is decoded yet.

    Training images are cropped by ``images.random_resized_crop``, test images by
    ``images.center_crop``, on the host; flips and normalisation are left to the view.

    Args:
      root: folder with ``train`` and ``val`` or ``test``.
      size: side of the crops.
      test_split: folder to evaluate on; ``val`` or ``test``, whichever there is, if
        not given.
      classes: their names, which are those of the folders, in the order of the labels;
        or a text file with one a line. Sorted if not given.
      mean: of each channel in [0, 1].
      std: of each channel in [0, 1].

    Raises:
      UserError: if a folder is missing or empty, a test class is not in ``train``,
        ``classes`` are other ones, or a file is not an image by its name.
    """
    top = Path(root).expanduser()
    train, test = top / "train", top / (test_split or _only_test_folder(top))
    names = _class_folders(train)
    unknown = sorted(set(_class_folders(test)) - set(names))
    if unknown:
        raise UserError(
            f"{test} has classes that {train} has not: {', '.join(unknown[:5])} "
            f"({len(unknown)} in all). Every test class needs training images."
        )
    names = _in_order(names, classes, train)
    info = Info(
        name=top.absolute().name,
        num_classes=len(names),
        image_shape=(size, size, 3),
        mean=tuple(mean),
        std=tuple(std),
        class_names=tuple(names),
        resize=CENTER_CROP,
    )
    source = _list_images(train, names)
    return Dataset(
        *(info, lambda seed: source, _list_images(test, names)),
        *(random_resized_crop(size), center_crop(size)),
    )


def _only_test_folder(top: Path) -> str:
    if not top.is_dir():
        raise UserError(
            f"{top.absolute()} does not exist, expected a folder with train/ and val/, "
            "each with a folder of images per class. Set config.data.root."
        )
    found = [
        name
        for name in TEST_FOLDERS
        if (top / name).is_dir() or image_lists.list_of(top / name)
    ]
    if len(found) != 1:
        raise UserError(
            f"{top} has {' and '.join(found) or 'neither val nor test'}, expected one "
            "folder to evaluate on. Name it with test_split."
        )
    return found[0]


def _class_folders(split: Path) -> list[str]:
    if listed := image_lists.list_of(split):
        return sorted(image_lists.read(split, listed))
    wanted = f"Expected {split}/<class>/<image files>."
    if not split.is_dir():
        raise UserError(f"{split} is not a folder. {wanted}")
    names = listing.entries(split)
    if not names:
        raise UserError(f"{split} is empty. {wanted}")
    for name in names:
        if not (split / name).is_dir():
            raise UserError(f"{split / name} is not a folder. {wanted}")
    return names


def _in_order(
    found: list[str], classes: tuple[str, ...] | str, train: Path
) -> list[str]:
    if not classes:
        return found
    names = class_names.read(classes)
    wrong = sorted(set(names) ^ set(found))
    if wrong:
        shown = ", ".join(wrong[:5])
        raise UserError(
            f"config.data.classes and the folders in {train} differ: {shown} "
            f"({len(wrong)} in all) are only in one of them. Name each folder once."
        )
    return list(names)


def _list_images(split: Path, names: list[str]) -> FolderSource:
    paths: list[str] = []  # not Path: there may be millions
    labels: list[int] = []
    listed = image_lists.list_of(split)
    members = image_lists.read(split, listed) if listed else {}
    for label, name in enumerate(names):
        paths += members.get(name, [])
        labels += [label] * len(members.get(name, []))
        folder = split / name
        if (folder / "images").is_dir():  # Tiny-ImageNet
            folder = folder / "images"
        if not folder.is_dir():
            continue  # a class without test images is allowed
        files = listing.entries(folder)
        if not files:
            raise UserError(f"{folder} is empty. Add images or remove the folder.")
        for file in files:
            if not file.lower().endswith(SUFFIXES):
                raise UserError(
                    f"{folder / file} is not an image by its name. Expected one of "
                    f"{', '.join(SUFFIXES)}; remove other files and folders."
                )
        paths += [f"{folder}/{file}" for file in files]
        labels += [label] * len(files)
    return FolderSource(paths, np.asarray(labels, np.int32))
