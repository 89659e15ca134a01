"""Reads TIIL: images with captions that contradict them, and where (arXiv 2404.18033).

The data set is given on request; its layout is known from others' loaders only, so
fields that are not known are reported rather than passed over.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import parsing, schema
from jaxkd.core.errors import UserError
from jaxkd.readers import images
from jaxkd.readers.masks import files

CONSISTENT, INCONSISTENT = "consistent.json", "inconsistent.json"
_IMAGE_FIELDS = {"id", "file_name", "width", "height"}
_FIELDS = {
    *("id", "image_id", "caption", "category_id", "iscrowd", "area", "bbox"),
    *("ori_word", "new_word", "segmentation"),
}

_WORD = (str, schema.NULL)
_FILE = {
    "images": [{"id": (int, str), "file_name": str}],
    "annotations": [
        {
            "image_id?": (int, str),
            "caption?": str,
            "segmentation?": (dict, list, schema.NULL),
            "new_word?": _WORD,
            "ori_word?": _WORD,
        }
    ],
}


class Pair(NamedTuple):
    """An image and a caption.

    Attributes:
      image: path of the file.
      caption: the text.
      inconsistent: whether they contradict each other.
      mask: ``[height, width]`` bool; empty where they do not, or no mask is known.
      new_word: the word of the caption that is wrong, if it is named.
      old_word: the right word, if it is named.
    """

    image: Path
    caption: str
    inconsistent: bool
    mask: np.ndarray
    new_word: str | None
    old_word: str | None


def read(folder: str | Path, masks: str | Path | None = None) -> Iterator[Pair]:
    """Reads the pairs of both files, the consistent ones first.

    Args:
      folder: with ``consistent.json``, ``inconsistent.json`` and the images.
      masks: folder of PNG masks named like the images, in place of ``segmentation``;
        see ``masks.files.read_mask``.

    Raises:
      UserError: if a file is missing, damaged or without annotations, an annotation has
        no image or caption, or a mask is of another size than its image.
    """
    folder = Path(folder)
    for name in (CONSISTENT, INCONSISTENT):
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{folder} has no {name}. Expected {CONSISTENT} and {INCONSISTENT} of "
                "TIIL, each with images and annotations."
            )
        yield from _read_file(path, None if masks is None else Path(masks))


def polygon_mask(points: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Draws COCO's polygons ``[x, y, x, y, ..]`` into a mask of (height, width)."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (size[1], size[0]))
    for one in points:
        ImageDraw.Draw(canvas).polygon([float(value) for value in one], fill=1)
    return np.array(canvas, bool)


def run_length_mask(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    """Decodes COCO's plain run lengths: columns first, starting with zeros.

    Raises:
      UserError: if they do not fill the mask.
    """
    if sum(counts) != size[0] * size[1]:
        raise UserError(
            f"Runs of {sum(counts)} pixels for a mask of {size[0]} x {size[1]}."
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[1], size[0]).T


def _read_file(path: Path, masks: Path | None) -> Iterator[Pair]:
    remedy = "Download it again."
    content = parsing.read_json(path, "annotations of TIIL", remedy)
    with parsing.parsing(path, "annotations of TIIL", remedy):
        schema.check(content, _FILE, "the file")
    images = {image["id"]: image for image in content["images"]}
    if len(images) < len(content["images"]):
        raise UserError(f"{path}: two images have one id. {remedy}")
    annotations = content["annotations"]
    if not annotations:
        raise UserError(f"{path} has no annotations. {remedy}")
    _report_unknown(path, images.values(), _IMAGE_FIELDS)
    _report_unknown(path, annotations, _FIELDS)
    wrong = path.name == INCONSISTENT
    for number, one in enumerate(annotations):
        image = images.get(one.get("image_id"))
        if image is None or "caption" not in one:
            raise UserError(
                f"{path}: annotation {number} has no caption or no image "
                f"{one.get('image_id')!r}."
            )
        file = path.parent / image["file_name"]
        if not parsing.is_file(file):
            raise UserError(f"There is no image {file}. Copy the data set whole.")
        with parsing.parsing(f"{path}: annotation {number}", "a mask", remedy):
            mask = _mask(one, file, masks) if wrong else np.zeros((0, 0), bool)
        yield Pair(
            file, one["caption"], wrong, mask, one.get("new_word"), one.get("ori_word")
        )


def _mask(one: Mapping[str, Any], file: Path, masks: Path | None) -> np.ndarray:
    if masks is not None:
        path = masks / f"{file.stem}.png"
        if not path.is_file():
            raise UserError(f"There is no mask {path} for {file.name}.")
        return _fitting(files.read_mask(path, _doubt) > 0, file, path)
    found = one.get("segmentation")
    if isinstance(found, dict):
        counts = found["counts"]
        if isinstance(counts, str):
            raise UserError(
                f"{file.name}: the mask has compressed run lengths. Give a folder of "
                "PNG masks instead."
            )
        mask = run_length_mask(counts, tuple(found["size"]))
        return _fitting(mask, file, "its run lengths")
    if not found:
        return np.zeros((0, 0), bool)
    return polygon_mask(found, _size(file))


def _size(file: Path) -> tuple[int, int]:
    height, width, _ = images.decode(file).shape
    return height, width


def _fitting(mask: np.ndarray, file: Path, origin: Any) -> np.ndarray:
    if mask.shape != _size(file):
        height, width = _size(file)
        raise UserError(
            f"{file}: an image of {height} x {width} pixels has a mask of "
            f"{mask.shape[0]} x {mask.shape[1]} ({origin}). Give masks of the images' "
            "own sizes."
        )
    return mask


def _doubt(note: str) -> None:
    warnings.warn(note, stacklevel=4)


def _report_unknown(path: Path, entries: Any, known: set[str]) -> None:
    unknown = sorted({key for one in entries for key in one} - known)
    if unknown:
        warnings.warn(
            f"{path}: fields that are not known and not used: {', '.join(unknown)}.",
            stacklevel=4,
        )
