"""Well-known data sets without their files: for programs that are planned, not run."""

from typing import Any

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Example, Info
from jaxkd.datasets import (
    av_clips,
    boxes,
    ct,
    face_forgery,
    folder,
    handwriting,
    handwriting_prompts,
    image_pairs,
    mask_images,
    text_lines,
)
from jaxkd.datasets.cifar import COUNTS, STATISTICS

_IMAGENET = (1_281_167, 50_000)
_PHOTOGRAPHS = (25_000, 1_000)
_SCANS = (3_000, 1_000)
_COCO = (118_287, 5_000)
_TEXTZOOM = (17_367, 4_373)
_DIV2K = (800, 100)
_CLIPS = (15_000, 4_000)
_FACES = (100_000, 20_000)
_CHARACTERS = 40  # that the published recognisers tell apart


class _Unread:
    """Examples of which only the number is known."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        raise UserError("This data set was only outlined: its files were not found.")


def make(name: str, **options: Any) -> Dataset | None:
    """Returns what a data set is like, or None where only its files tell.

    Args:
      name: "cifar"; "folder", which is taken for ImageNet-1k; "mask_images", "ct",
        "face_forgery" or "av_clips", of which as many are assumed as a large set has;
        "boxes", "text_lines" or "image_pairs", which are taken for COCO, TextZoom and
        DIV2K; "handwriting" and "handwriting_prompts", in whose place words are drawn,
        with tokens for whole words.
      **options: as for loading it.
    """
    if name == "cifar":
        return _cifar(options.get("classes", 100))
    if name == "folder":
        return _imagenet(**options)
    if name == "mask_images":
        return _mask_images(options.get("size", 352))
    if name == "ct":
        return _ct(**options)
    if name == "av_clips":
        return _av_clips(**options)
    if name == "handwriting":
        return handwriting.load(**options | {"root": None})
    if name == "handwriting_prompts":
        drawn = {"root": None, "tokenizer": "bytes"}
        return handwriting_prompts.load(**options | drawn)
    return _of_photographs(name, options)


def _of_photographs(name: str, options: dict[str, Any]) -> Dataset | None:
    def given(*keys: str) -> dict[str, Any]:
        return {key: options[key] for key in keys if key in options}

    if name == "boxes":
        classes = [str(number) for number in range(80)]
        described = boxes.describe_examples(name, classes, **given("size", "most"))
        counts = _COCO
    elif name == "text_lines":
        sizes = given("height", "width", "slots", "alphabet", "factor")
        described, counts = text_lines.describe_examples(name, **sizes), _TEXTZOOM
    elif name == "image_pairs":
        sizes = given("size", "scale", "low")
        described, counts = image_pairs.describe_examples(name, **sizes), _DIV2K
    elif name == "face_forgery":
        sizes = given("size", "mean", "std")
        graph = face_forgery.GRAPHS[options.get("graph", "ffsc")]()
        described, counts = face_forgery.describe_examples(name, graph, **sizes), _FACES
    else:
        return None
    (info, fields), (train, test) = described, (_Unread(count) for count in counts)
    return Dataset(info, lambda seed: train, test, fields=fields)


def _cifar(classes: int) -> Dataset:
    mean, std = STATISTICS[classes]
    names = tuple(str(number) for number in range(classes))
    train, test = (ArraySource(_blank(count, 32, 32, 3)) for count in COUNTS)
    info = Info(f"cifar{classes}", classes, (32, 32, 3), mean, std, names)
    return Dataset(info, lambda seed: train, test)


def _blank(count: int, *shape: int) -> dict[str, np.ndarray]:
    images = np.broadcast_to(np.uint8(0), (count, *shape))
    return {"image": images, "label": np.broadcast_to(np.int32(0), (count,))}


def _imagenet(
    size: int = 224, channels: int = 3, mean: Any = (), std: Any = (), **_: Any
) -> Dataset:
    names = [str(number) for number in range(1000)]
    info = folder.describe("imagenet", names, size, channels, mean, std)
    train, test = (_Unread(count) for count in _IMAGENET)
    return Dataset(info, lambda seed: train, test)


def _mask_images(size: int) -> Dataset:
    info, fields = mask_images.describe_examples("mask_images", size)
    train, test = (_Unread(count) for count in _PHOTOGRAPHS)
    return Dataset(info, lambda seed: train, test, fields=fields)


def _ct(
    classes: tuple[str, ...] = ("NCP", "CP", "Normal"),
    size: tuple[int, int, int] = (64, 128, 128),
    **_: Any,
) -> Dataset:
    info, fields = ct.describe_examples("ct", classes, size)
    train, test = (_Unread(count) for count in _SCANS)
    return Dataset(info, lambda seed: train, test, fields=fields)


def _av_clips(
    frames: int = 150, size: int = 112, posteriors: bool = False, **_: Any
) -> Dataset:
    classes = _CHARACTERS if posteriors else 0
    info, fields = av_clips.describe_examples("av_clips", frames, size, classes)
    train, test = (_Unread(count) for count in _CLIPS)
    return Dataset(info, lambda seed: train, test, fields=fields)
