"""Images and masks in files, for localisation: ``root/train`` and ``root/val``.

Each split is a folder or a list, see ``jaxkd.readers.masks.pairs``. All files are read
once before training, so that a damaged or ill-fitting one does not end a run in its
middle:

    python -m jaxkd.datasets.mask_images data/inpainting

does that alone, and tells what it found.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Example, Info
from jaxkd.readers.images import IMAGENET_MEAN, IMAGENET_STD
from jaxkd.readers.masks import files
from jaxkd.readers.masks import pairs as mask_pairs
from jaxkd.readers.masks.pairs import Pair

FITS = ("crop", "resize")
_MULTIPLE = 8


class Reading(NamedTuple):
    """How masks are read.

    Attributes:
      resize: "nearest" to accept masks of another size than their image.
      invert: whether dark is foreground.
      foreground: see ``files.read_mask``.
      max_pixels: see ``images.decode``.
      allow_empty: whether an image with an empty mask is authentic, not refused.
    """

    resize: str = ""
    invert: bool = False
    foreground: str = ""
    max_pixels: int | None = None
    allow_empty: bool = False


_AS_IS = Reading()


class PairSource:
    """Images with their masks; decoded when they are asked for."""

    def __init__(self, pairs: list[Pair], reading: Reading = _AS_IS):
        self.pairs, self.reading = pairs, reading

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        return read(self.pairs[index], self.reading, lambda text: None)


def read(pair: Pair, reading: Reading, note: files.Note) -> Example:
    """Reads an image and its mask.

    Returns:
      ``image`` uint8 ``[h, w, 3]``, ``target_mask`` uint8 ``[h, w]`` and ``label``.

    Raises:
      UserError: if a file cannot be read or the sizes do not fit.
    """
    picture = files.read_image(pair.image, note, reading.max_pixels)
    if pair.mask is None:
        mask = np.zeros(picture.pixels.shape[:2], np.uint8)
    else:
        mask = files.read_mask(
            pair.mask,
            note,
            invert=reading.invert,
            foreground=reading.foreground,
            max_pixels=reading.max_pixels,
        )
        if not mask.any():
            _refuse_empty(pair.mask, reading, note)
        origin = f"{pair.image} with {pair.mask}"
        mask = files.fit_mask(mask, picture, origin, note, resize=reading.resize)
    return {"image": picture.pixels, "target_mask": mask, "label": _label(mask)}


def _refuse_empty(path: Path, reading: Reading, note: files.Note) -> None:
    if not reading.allow_empty:
        raise UserError(
            f"{path}: nothing in it is foreground. If its image is authentic, put the "
            "image into authentic/ or list it without a mask, or set "
            "empty_masks='authentic'; else name the foreground."
        )
    note(f"{path}: nothing in it is foreground; its image is taken for authentic")


def _label(mask: np.ndarray) -> np.ndarray:
    return np.asarray(mask.max(initial=0) > 127, np.int32)


class Checked(NamedTuple):
    """What reading all files found.

    Attributes:
      good: pairs that can be used.
      bad: what is wrong with the others.
      notes: what is doubtful.
    """

    good: list[Pair]
    bad: list[str]
    notes: list[str]


def check(pairs: list[Pair], reading: Reading = _AS_IS) -> Checked:
    """Reads all files once."""
    good: list[Pair] = []
    bad: list[str] = []
    notes: list[str] = []
    for pair in pairs:
        try:
            read(pair, reading, notes.append)
        except UserError as error:
            bad.append(str(error))
            continue
        good.append(pair)
    return Checked(good, bad, notes)


def load(
    root: str,
    size: int = 352,
    fit: str = "crop",
    test_split: str = "",
    strict: bool = True,
    resize_masks: str = "",
    invert_masks: bool = False,
    foreground: str = "",
    empty_masks: str = "refuse",
    mask_endings: Sequence[str] = mask_pairs.ENDINGS,
    max_pixels: int | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Dataset:
    """Finds, checks and describes the images.

    Args:
      root: folder with ``train`` and ``val``, folders or lists.
      size: side of what networks see, a multiple of 8.
      fit: "crop" cuts such squares out at full resolution, mirroring images that are
        smaller; "resize" squeezes whole images into them, as the official code does,
        which wipes out the traces in large photographs.
      test_split: what to evaluate on; ``val`` if there is one, else ``test``.
      strict: whether a bad file ends the run; else it is left out, and told.
      resize_masks: "nearest" to accept masks of another size than their image.
      invert_masks: whether dark is foreground.
      foreground: values of masks that have more than two; see ``files.read_mask``.
      empty_masks: "refuse", or "authentic": what a mask without foreground makes of its
        image.
      mask_endings: see ``pairs.find``.
      max_pixels: most pixels of an image; None for Pillow's limit.
      mean: of each channel in [0, 1].
      std: of each channel in [0, 1].

    Raises:
      UserError: listing every file that is missing, without a partner, or bad.
    """
    if fit not in FITS or resize_masks not in ("", "nearest"):
        raise UserError(
            f"fit is {fit!r} and resize_masks {resize_masks!r}, expected one of "
            f"{', '.join(FITS)} and '' or 'nearest'."
        )
    if size < _MULTIPLE or size % _MULTIPLE:
        raise UserError(f"size is {size}, expected a multiple of {_MULTIPLE}.")
    files.check_foreground(foreground)
    if empty_masks not in ("refuse", "authentic"):
        raise UserError(
            f"empty_masks is {empty_masks!r}, expected 'refuse' or 'authentic'."
        )
    top = Path(root).expanduser()
    allow = empty_masks == "authentic"
    reading = Reading(resize_masks, invert_masks, foreground, max_pixels, allow)
    train, test = (
        PairSource(_checked(split, reading, strict, mask_endings), reading)
        for split in (
            _split(top, "train"),
            _split(top, *([test_split] if test_split else _TESTS)),
        )
    )
    _check_apart(train.pairs, test.pairs)
    info, fields = describe_examples(top.absolute().name, size, mean, std)
    prepare_train, prepare_test = _preparations(size, fit)
    return Dataset(info, lambda seed: train, test, prepare_train, prepare_test, fields)


def describe_examples(
    title: str,
    size: int,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> tuple[Info, dict[str, jax.ShapeDtypeStruct]]:
    """Returns what a set of such images is like, and the fields of an example."""
    names = ("authentic", "inpainted")
    info = Info(title, 2, (size, size, 3), tuple(mean), tuple(std), names)
    return info, {
        "image": jax.ShapeDtypeStruct((size, size, 3), np.uint8),
        "target_mask": jax.ShapeDtypeStruct((size, size), np.uint8),
        "label": jax.ShapeDtypeStruct((), np.int32),
    }


_TESTS = ("val", "test")


def _split(top: Path, *names: str) -> Path:
    for name in names:
        paths = [top / name, top / f"{name}.json", top / f"{name}.csv"]
        there = [path for path in paths if path.exists()]
        if len(there) > 1:
            raise UserError(
                f"{top} has {' and '.join(path.name for path in there)}, expected one. "
                "Rename or move the other."
            )
        if there:
            return there[0]
    raise UserError(
        f"{top.absolute()} has no {' or '.join(names)}, expected folders or lists "
        "(.json,"
        " .csv) of that name. Set config.data.root."
    )


def _checked(
    split: Path, reading: Reading, strict: bool, endings: Sequence[str]
) -> list[Pair]:
    found = check(mask_pairs.find(split, endings), reading)
    print(describe(split, found), file=sys.stderr, flush=True)
    if found.bad and (strict or not found.good):
        lines = "\n".join(f"  {text}" for text in found.bad[:20])
        more = f"\n  ... and {len(found.bad) - 20} more" if len(found.bad) > 20 else ""
        raise UserError(
            f"{split} has {len(found.bad)} bad images or masks:\n{lines}{more}\n"
            "Mend them, or set config.data.strict = False to leave them out."
        )
    return found.good


def _check_apart(train: list[Pair], test: list[Pair]) -> None:
    both = {p.image.resolve() for p in train} & {p.image.resolve() for p in test}
    if both:
        raise UserError(
            f"{len(both)} images are for training and for testing, such as "
            f"{min(both)}. Expected different ones."
        )


def describe(split: Path, found: Checked) -> str:
    """Returns what a check found as text."""
    authentic = sum(pair.mask is None for pair in found.good)
    lines = [
        f"{split}: {len(found.good)} images, {authentic} of them authentic; "
        f"{len(found.bad)} bad"
    ]
    for title, texts in (("bad", found.bad), ("note", found.notes)):
        lines += [f"  {title}: {text}" for text in texts[:20]]
        if len(texts) > 20:
            lines.append(f"  ... and {len(texts) - 20} more of these")
    return "\n".join(lines)


def _preparations(size: int, fit: str) -> tuple[Callable, Callable]:
    if fit == "resize":

        def squeeze(example: Example, rng: np.random.Generator | None = None):
            del rng
            return _squeezed(example, size)

        return squeeze, squeeze

    def crop(example: Example, rng: np.random.Generator) -> Example:
        return _cut(example, size, rng)

    return crop, lambda example: _cut(example, size, None)


def _squeezed(example: Example, size: int) -> Example:
    from PIL import Image

    shape = (size, size)
    image, mask = (
        np.array(
            Image.fromarray(example[name]).resize(shape, Image.Resampling.BILINEAR)
        )
        for name in ("image", "target_mask")
    )
    return example | {"image": image, "target_mask": mask}


def _cut(example: Example, size: int, rng: np.random.Generator | None) -> Example:
    """Cuts a square out: the middle, or where a draw says.

    Half of the draws are centred on a foreground pixel, since small regions are easily
    missed.
    """
    image, mask = _grown(example["image"], size), _grown(example["target_mask"], size)
    room = np.array(mask.shape) - size
    if rng is None:
        top, left = room // 2
    else:
        corner = rng.integers(room + 1)
        inside = np.argwhere(mask > 127)
        if len(inside) and rng.random() < 0.5:
            corner = np.clip(inside[rng.integers(len(inside))] - size // 2, 0, room)
        top, left = corner
    part = slice(top, top + size), slice(left, left + size)
    mask = mask[part]
    return {"image": image[part], "target_mask": mask, "label": _label(mask)}


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    """Mirrors images that are too small, below and to the right."""
    missing = [max(size - side, 0) for side in array.shape[:2]]
    if not any(missing):
        return array
    pad = [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, pad, mode="symmetric")


def main(arguments: list[str]) -> int:
    """Checks folders or lists; returns 2 if anything in them is bad."""
    status = 0
    for name in arguments:
        top = Path(name).expanduser()
        splits = [top / s for s in ("train", *_TESTS) if (top / s).exists()] or [top]
        for split in splits:
            try:
                found = check(mask_pairs.find(split))
                print(describe(split, found))
                status = 2 if found.bad else status
            except UserError as error:
                print(f"jaxkd: {error}", file=sys.stderr)
                status = 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
