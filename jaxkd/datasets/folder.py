"""Image files in class folders, as ImageNet is kept: ``root/train/<class>/*.jpg``.

The class names are the sorted names of the folders in ``train``, or in the order of
``classes``, such as that of a network which was trained elsewhere. A folder without
``train`` (``root/val/<class>/*.jpg``, or ``root/<class>/*.jpg``) can be evaluated on,
or is divided by ``hold_out``.
"""

import hashlib
import sys
from collections.abc import Sequence
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
    check_channels,
    decode,
    random_resized_crop,
)

TEST_FOLDERS = ("val", "test")
_LAYOUT = "a folder with train/ and val/, each with a folder of images per class"


class FolderSource:
    """Image files and their labels; an image is decoded when it is asked for."""

    def __init__(self, paths: list[str], labels: np.ndarray, channels: int = 3):
        self.paths, self.labels, self.channels = paths, labels, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        image = decode(Path(self.paths[index]), self.channels)
        return {"image": image, "label": self.labels[index]}


def load(
    root: str,
    size: int = 224,
    test_split: str | None = None,
    classes: tuple[str, ...] | str = (),
    channels: int = 3,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    hold_out: float = 0.0,
) -> Dataset:
    """Lists the images; none is decoded yet.

    Training images are cropped by ``images.random_resized_crop``, test images by
    ``images.center_crop``, on the host; flips and normalisation are left to the view.

    Args:
      root: folder with ``train`` and ``val`` or ``test``; for evaluation alone, without
        ``train``, or of class folders. It has then no training examples.
      size: side of the crops.
      test_split: folder to evaluate on; ``val`` or ``test``, whichever there is, if
        not given.
      classes: their names, which are those of the folders, in the order of the labels;
        or a text file with one a line. Sorted if not given.
      channels: that images are decoded to (``images.decode``): 1 for grey, 3 for RGB,
        4 for RGB with transparency, or as many as TIFF files have.
      mean: of each channel in [0, 1]; if not given, that of ImageNet for RGB, and its
        average for grey; 0.5 for others.
      std: likewise.
      hold_out: share of each class's images, above 0 and below 1, that is kept from
        training and evaluated on: of ``root/<class>/*.jpg``, or of ``train`` where
        there is no other folder. Which images those are depends on their names alone.

    Raises:
      UserError: if a folder is missing or empty, a test class is not in ``train``,
        ``classes`` are other ones, or a file is not an image by its name.
    """
    if not str(root):
        raise UserError(f"config.data.root is empty, expected {_LAYOUT}. Set it.")
    top = Path(root).expanduser()
    if hold_out:
        train, test = None, _undivided(top, hold_out, test_split)
    else:
        train, test = _splits(top, test_split)
    names = _class_folders(train or test)
    if train is not None:
        _check_known(_class_folders(test), test, names, train)
    names = _in_order(names, classes, train or test, some=not (train or hold_out))
    info = describe(top.absolute().name, names, size, channels, mean, std)
    held = _list_images(test, names, channels)
    source = FolderSource([], np.zeros(0, np.int32), channels)
    if hold_out:
        source, held = _divide(held, hold_out)
    elif train is not None:
        source = _list_images(train, names, channels)
    return Dataset(
        *(info, lambda seed: source, held),
        *(random_resized_crop(size), center_crop(size)),
    )


def describe(
    name: str,
    classes: Sequence[str],
    size: int,
    channels: int = 3,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Info:
    """Describes such a data set; see ``load``.

    Raises:
      UserError: if ``channels`` is no number of channels, or ``mean`` and ``std`` have
        another.
    """
    check_channels(channels)
    given = tuple(mean), tuple(std)
    for key, values in zip(("mean", "std"), given, strict=True):
        if len(values) not in (0, channels):
            raise UserError(
                f"{name}: {key} has {len(values)} numbers, expected one for each of "
                f"{channels} channels. Set config.data.{key} or config.data.channels."
            )
    usual = tuple(_usual(values, channels) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return Info(
        name=name,
        num_classes=len(classes),
        image_shape=(size, size, channels),
        mean=given[0] or usual[0],
        std=given[1] or usual[1],
        class_names=tuple(classes),
        resize=CENTER_CROP,
    )


def _usual(of_imagenet: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if channels == len(of_imagenet):
        return of_imagenet
    return (round(sum(of_imagenet) / 3, 3),) if channels == 1 else (0.5,) * channels


def _undivided(top: Path, hold_out: float, test_split: str | None) -> Path:
    """Returns the folder of class folders of which images are held out."""
    _check_there(top)
    if not 0 < hold_out < 1:
        raise UserError(f"hold_out is {hold_out}, expected a share such as 0.2.")
    there = [n for n in (test_split, *TEST_FOLDERS) if n and _is_split(top / n)]
    if there:
        raise UserError(
            f"hold_out is {hold_out}, but {top} has {there[0]} to evaluate on, "
            "expected one of the two. Leave out hold_out."
        )
    return top / "train" if _is_split(top / "train") else top


def _divide(every: FolderSource, share: float) -> tuple[FolderSource, FolderSource]:
    """Divides the images of each class by their names; both parts have at least one."""
    digests = [hashlib.sha256(Path(p).name.encode()).digest() for p in every.paths]
    held = np.zeros(len(every), bool)
    for label in np.unique(every.labels):
        members = np.flatnonzero(every.labels == label)
        if len(members) < 2:
            raise UserError(
                f"{every.paths[members[0]]} is the only image of its class, expected "
                "two at least of which one is held out. Add images."
            )
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held[sorted(members, key=digests.__getitem__)[:count]] = True
    return _part(every, ~held), _part(every, held)


def _part(every: FolderSource, chosen: np.ndarray) -> FolderSource:
    paths = [every.paths[i] for i in np.flatnonzero(chosen)]
    return FolderSource(paths, every.labels[chosen], every.channels)


def _check_there(top: Path) -> None:
    if not top.is_dir():
        raise UserError(
            f"{top.absolute()} does not exist, expected {_LAYOUT}. Set "
            "config.data.root."
        )


def _splits(top: Path, test_split: str | None) -> tuple[Path | None, Path]:
    """Returns the folder to train on, None if there is none, and the one to test."""
    _check_there(top)
    train = top / "train" if _is_split(top / "train") else None
    found = [name for name in TEST_FOLDERS if _is_split(top / name)]
    if test_split:
        return train, top / test_split
    if train is None and not found and _holds_classes(top):
        return None, top
    if len(found) != 1:
        raise UserError(
            f"{top} has {' and '.join(found) or 'neither val nor test'}, expected one "
            "folder to evaluate on. Name it with config.data.test_split, or hold out a "
            "share of the images in train: config.data.hold_out=0.2."
        )
    return train, top / found[0]


def _is_split(path: Path) -> bool:
    return path.is_dir() or image_lists.list_of(path) is not None


def _holds_classes(top: Path) -> bool:
    """Tells whether images lie in the very folders of a folder, or are listed."""
    if image_lists.list_of(top):
        return True
    folders = [top / name for name in listing.entries(top) if (top / name).is_dir()]
    return any(
        name.lower().endswith(SUFFIXES)
        for folder in folders
        for name in listing.entries(folder)
    )


def _check_known(
    found: Sequence[str], test: Path, names: Sequence[str], train: Path
) -> None:
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise UserError(
            f"{test} has classes that {train} has not: {', '.join(unknown[:5])} "
            f"({len(unknown)} in all). Every test class needs training images."
        )


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
    found: list[str], classes: tuple[str, ...] | str, split: Path, some: bool
) -> list[str]:
    """Returns the names in the order of ``classes``, of which some may do."""
    if not classes:
        return found
    names = class_names.read(classes)
    wrong = sorted(set(found) - set(names) if some else set(names) ^ set(found))
    if wrong:
        shown = ", ".join(wrong[:5])
        raise UserError(
            f"config.data.classes and the folders in {split} differ: {shown} "
            f"({len(wrong)} in all) are only in one of them. Name each folder once."
        )
    return list(names)


def _list_images(split: Path, names: Sequence[str], channels: int) -> FolderSource:
    paths: list[str] = []  # not Path: there may be millions
    labels: list[int] = []
    listed = image_lists.list_of(split)
    members = image_lists.read(split, listed) if listed else {}
    if listed and (rest := image_lists.unlisted(split, members)):
        print(
            f"{listed} does not list {len(rest)} images in {split}, such as "
            f"{listing.shown(rest[0].name)}; they are left out",
            file=sys.stderr,
        )
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
    return FolderSource(paths, np.asarray(labels, np.int32), channels)
