"""Photographs for restoration: folders of images, as DIV2K and Set5 are kept.

``root/train`` and ``root/test`` hold images of any size, in any depth of folders.
Small versions are made on the device (view ``low``); where they exist as files,
``root/train_low`` and ``root/test_low`` hold them under the same relative names.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Example, Info
from jaxkd.readers import listing
from jaxkd.readers.images import IMAGENET_MEAN, IMAGENET_STD, SUFFIXES, decode

TEST_FOLDERS = ("test", "valid", "val")


class PairSource:
    """Images, and their small versions where there are any, decoded when asked for."""

    def __init__(self, paths: list[Path], low: list[Path], size: int, scale: int):
        self.paths, self.low = paths, low
        self.size, self.scale = size, scale

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        example = {"image": decode(self.paths[index])}
        height, width = example["image"].shape[:2]
        if min(height, width) < self.size:
            raise UserError(
                f"{self.paths[index]} has {height} x {width} pixels, expected at least "
                f"{self.size} a side. Lower config.data.size, or leave the image out."
            )
        if not self.low:
            return example
        small = decode(self.low[index])
        expected = height // self.scale, width // self.scale
        if small.shape[:2] != expected:
            raise UserError(
                f"{self.low[index]} is {small.shape[0]} x {small.shape[1]} pixels and "
                f"{self.paths[index]} {height} x {width}, expected {expected[0]} x "
                f"{expected[1]}: 1/{self.scale} of the sides, rounded down. Set "
                "config.data.scale, or make the small images anew."
            )
        return example | {"low": small}


def load(root: str, size: int = 96, scale: int = 2, low: bool = False) -> Dataset:
    """Lists the images; none is decoded yet.

    Training patches are random crops of ``size`` pixels, test patches the middle ones;
    smaller images are refused, as padding would be learnt.

    Args:
      root: folder with ``train`` and ``test`` (or ``valid``, ``val``).
      size: side of the patches, a multiple of ``scale``.
      scale: ratio of the sides of large and small images.
      low: whether the small images are read from ``train_low`` and ``test_low``, into
        the field ``low``.

    Raises:
      UserError: if a folder is missing or empty, a small image is missing, or ``size``
        is no multiple of ``scale``.
    """
    if scale < 1 or size < 1 or size % scale:
        raise UserError(f"size is {size} and scale {scale}, expected a multiple of it.")
    top = Path(root).expanduser()
    found = [name for name in TEST_FOLDERS if _is_folder(top / name)]
    training = _is_folder(top / "train")
    if not training or len(found) != 1:
        raise UserError(
            f"{top.absolute()} has {', '.join(found) or 'no test folder'} and "
            f"{'a' if training else 'no'} folder train, expected train "
            f"and one of {', '.join(TEST_FOLDERS)}. Set config.data.root."
        )
    train, test = (_list(top / name, size, scale, low) for name in ("train", found[0]))
    info, fields = describe_examples(top.absolute().name, size, scale, low)
    crop, middle = _random_crop(size, scale), _middle_crop(size, scale)
    return Dataset(info, lambda seed: train, test, crop, middle, fields)


def _is_folder(path: Path) -> bool:
    return path.is_dir()


def describe_examples(name: str, size: int = 96, scale: int = 2, low: bool = False):
    """Returns the description, and the fields of a prepared example."""
    shape = (size, size, 3)
    fields = {"image": jax.ShapeDtypeStruct(shape, np.uint8)}
    if low:
        small = (size // scale, size // scale, 3)
        fields["low"] = jax.ShapeDtypeStruct(small, np.uint8)
    return Info(name, 0, shape, IMAGENET_MEAN, IMAGENET_STD, ()), fields


def _list(folder: Path, size: int, scale: int, low: bool) -> PairSource:
    paths = listing.named(folder, SUFFIXES)
    if not paths:
        raise UserError(f"{folder} holds no images, expected {', '.join(SUFFIXES)}.")
    if not low:
        return PairSource(paths, [], size, scale)
    small = [
        folder.with_name(f"{folder.name}_low") / p.relative_to(folder) for p in paths
    ]
    missing = [path for path in small if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} does not exist ({len(missing)} of {len(paths)} missing), "
            "expected a small image for each large one, under the same name."
        )
    return PairSource(paths, small, size, scale)


def _cut(example: Example, size: int, scale: int, place: Callable) -> Example:
    height, width = example["image"].shape[:2]
    top, left = (scale * place((side - size) // scale) for side in (height, width))
    cut = {"image": example["image"][top : top + size, left : left + size]}
    if "low" in example:
        rows, columns, side = top // scale, left // scale, size // scale
        cut["low"] = example["low"][rows : rows + side, columns : columns + side]
    return example | cut


def _random_crop(size: int, scale: int):
    def prepare(example: Example, rng: np.random.Generator) -> Example:
        return _cut(example, size, scale, lambda most: int(rng.integers(most + 1)))

    return prepare


def _middle_crop(size: int, scale: int):
    return lambda example: _cut(example, size, scale, lambda most: most // 2)
