"""Photographs with boxes, annotated in COCO's JSON: ``instances_*.json``.

Every image is fitted into one padded square, so that shapes are static: its longer side
is scaled to ``size``, and the rest is padded with the mean colour at the right and at
the bottom. Fields: ``image`` uint8, ``boxes`` float32 ``[most, 4]`` (left, top, right,
bottom, in pixels of the square), ``classes`` int32 ``[most]``, -1 for padding. Crowds
(``iscrowd``) are left out of training; test images have them as class ``-2 - k``, which
COCO's evaluation ignores (``jaxkd.metrics.detection``) and all else takes for padding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.core import parsing, schema
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Example, Info
from jaxkd.metrics.detection import crowd
from jaxkd.readers.images import IMAGENET_MEAN, IMAGENET_STD, decode, resize

TOLERANCE = 1.0  # pixels by which a box may leave its image
_ID = (int, str)
_COCO = {
    "images": [
        {"id": _ID, "file_name": str, "width": schema.NUMBER, "height": schema.NUMBER}
    ],
    "annotations": [
        {"image_id?": _ID, "category_id?": _ID, "bbox?": [schema.NUMBER], "id?": _ID}
    ],
    "categories": [{"id": _ID, "name": _ID}],
}


class BoxSource:
    """Images and boxes of one annotation file."""

    def __init__(self, folder: Path, images: list[dict], boxes: dict[int, list]):
        self.folder, self.images, self.boxes = folder, images, boxes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        one = self.images[index]
        path = self.folder / one["file_name"]
        image = decode(path)
        if image.shape[:2] != (one["height"], one["width"]):
            raise UserError(
                f"{path} is {image.shape[0]} x {image.shape[1]} pixels (height x "
                f"width), and its annotation says {one['height']} x {one['width']}. "
                "Boxes would be misplaced: use the images that were annotated."
            )
        rows = self.boxes.get(one["id"], [])
        boxes = np.asarray([box for box, _ in rows], np.float32).reshape(-1, 4)
        classes = np.asarray([label for _, label in rows], np.int32)
        return {"image": image, "boxes": boxes, "classes": classes}


def read(path: Path, names: list[str] | None = None, *, crowds: bool = False):
    """Reads and checks an annotation file.

    Args:
      path: of the JSON file.
      names: class names that there must be; None takes the file's own, by their id.
      crowds: whether to keep crowds (``iscrowd``), with the class ``crowd(k)``; they
        are left out otherwise, as usual in training.

    Returns:
      Images, image id -> list of (corners, class), and the class names.

    Raises:
      UserError: if the file is no such file, has no image or no class or one of them
        twice, or an annotation has an unknown image or class, or a box that is empty or
        outside of its image.
    """
    what = "a COCO annotation file"
    remedy = "Expected JSON with images, annotations and categories."
    content = parsing.read_json(path, what, remedy)
    with parsing.parsing(path, what, remedy):
        schema.check(content, _COCO, "the file")
        images, annotations = content["images"], content["annotations"]
        categories = sorted(content["categories"], key=lambda one: one["id"])
        sizes = {
            one["id"]: (float(one["width"]), float(one["height"])) for one in images
        }
        for one in annotations:
            one["bbox"] = [float(x) for x in one.get("bbox", ())]
    for what, rows in (("image", images), ("class", categories)):
        if not rows:
            raise UserError(f"{path} names no {what}, expected at least one.")
        _check_unique(path, f"{what} id", [one["id"] for one in rows])
    _check_unique(path, "class name", [str(one["name"]) for one in categories])
    found = [str(one["name"]) for one in categories]
    names = found if names is None else names
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise UserError(
            f"{path} has the classes {', '.join(unknown)}, which the training "
            f"annotations lack. Expected some of {', '.join(names)}."
        )
    places = {one["id"]: names.index(str(one["name"])) for one in categories}
    boxes: dict[int, list] = {}
    for number, one in enumerate(annotations):
        if one.get("iscrowd") and not crowds:
            continue
        where = f"{path}: annotation {one.get('id', f'number {number}')}"
        corners = _check(one, where, sizes, places)
        label = places[one["category_id"]]
        label = crowd(label) if one.get("iscrowd") else label
        boxes.setdefault(one["image_id"], []).append((corners, label))
    return images, boxes, names


def _check_unique(path: Path, what: str, values: list) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise UserError(
            f"{path} has the {what} {twice[0]!r} more than once, expected each once: "
            "annotations could be of either. Give every one its own."
        )


def _check(one: Mapping[str, Any], where: str, sizes, places) -> list[float]:
    """Returns the corners of an annotation."""
    if one.get("image_id") not in sizes:
        raise UserError(
            f"{where} is of image {one.get('image_id')!r}, which the file does not "
            "list. Remove it, or add the image."
        )
    if one.get("category_id") not in places:
        raise UserError(
            f"{where} has class {one.get('category_id')!r}, expected one of the ids "
            f"{', '.join(map(str, places))}."
        )
    width, height = sizes[one["image_id"]]
    box = one["bbox"]
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise UserError(
            f"{where} has the box {box}, expected [left, top, width, height] with a "
            "positive size."
        )
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    outside = max(-left, -top, right - width, bottom - height)
    if outside > TOLERANCE:
        raise UserError(
            f"{where} has the box {box}, which leaves its image of {width:g} x "
            f"{height:g} pixels by {outside:g}. Boxes are [left, top, width, height]; "
            "is this one given by its corners?"
        )
    clipped = np.clip([left, top, right, bottom], 0, [width, height] * 2)
    return [float(x) for x in clipped]


def load(
    root: str,
    train: str = "annotations/instances_train2017.json",
    test: str = "annotations/instances_val2017.json",
    train_images: str = "train2017",
    test_images: str = "val2017",
    size: int = 512,
    most: int = 100,
) -> Dataset:
    """Reads both annotation files; no image is decoded yet.

    Args:
      root: folder that the other paths are relative to.
      train: annotations for training.
      test: annotations to evaluate on.
      train_images: folder of the images.
      test_images: likewise.
      size: side of the padded squares.
      most: objects of an image, and crowds of a test image; one of more is refused.

    Raises:
      UserError: see ``read``; or a folder or an image is missing.
    """
    top = Path(root).expanduser()
    training, names = _source(top / train, top / train_images, None, most)
    testing, _ = _source(top / test, top / test_images, names, most, crowds=True)
    info, fields = describe_examples(top.absolute().name, names, size, most)

    def prepare(example: Example, rng: np.random.Generator | None = None) -> Example:
        del rng
        return fit(example, size, most)

    return Dataset(info, lambda seed: training, testing, prepare, prepare, fields)


def describe_examples(name: str, names, size: int = 512, most: int = 100):
    """Returns the description, and the fields of a prepared example."""
    shape = (size, size, 3)
    fields = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "boxes": jax.ShapeDtypeStruct((most, 4), np.float32),
        "classes": jax.ShapeDtypeStruct((most,), np.int32),
    }
    names = tuple(names)
    return Info(name, len(names), shape, IMAGENET_MEAN, IMAGENET_STD, names), fields


def _source(path: Path, folder: Path, names, most: int, *, crowds: bool = False):
    images, boxes, names = read(path, names, crowds=crowds)
    if not folder.is_dir():
        raise UserError(f"{folder.absolute()} does not exist. Set config.data.root.")
    files = [folder / one["file_name"] for one in images]
    missing = [file for file in files if not parsing.is_file(file)]
    if missing:
        raise UserError(
            f"{path} lists {len(missing)} of {len(files)} images that do not exist, "
            f"such as {missing[0]}. Copy them, or take them out of the annotations."
        )
    crowded = {key: len(rows) for key, rows in boxes.items() if len(rows) > most}
    if crowded:
        raise UserError(
            f"{path}: {len(crowded)} images have more than {most} objects, up to "
            f"{max(crowded.values())}. Set config.data.most, lest objects be lost."
        )
    return BoxSource(folder, images, boxes), names


def fitted(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Returns height and width of an image in its square, whole pixels.

    Args:
      shape: height and width of the image.
      size: side of the square.

    >>> fitted((21, 40), 20)
    (10, 20)
    """
    factor = size / max(shape[:2])
    height, width = (min(max(round(side * factor), 1), size) for side in shape[:2])
    return height, width


def fit(example: Example, size: int, most: int) -> Example:
    """Fits an image and its boxes into a padded square."""
    image = example["image"]
    shape = fitted(image.shape, size)
    fill = np.round(255 * np.asarray(IMAGENET_MEAN)).astype(np.uint8)
    square = np.broadcast_to(fill, (size, size, 3)).copy()
    square[: shape[0], : shape[1]] = resize(image, shape)
    scale = np.array([shape[1] / image.shape[1], shape[0] / image.shape[0]] * 2)
    boxes = np.zeros((most, 4), np.float32)
    classes = np.full(most, -1, np.int32)
    boxes[: len(example["boxes"])] = example["boxes"] * scale
    classes[: len(example["classes"])] = example["classes"]
    return {"image": square, "boxes": boxes, "classes": classes}
