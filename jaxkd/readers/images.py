"""Photographs on the host: decoding, and the usual crops for training and evaluation.

Shared by the data sets whose images differ in size and therefore cannot be stacked
before they are cropped. Flips and normalisation follow on the device (``views``).
"""

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.core.source import Example
from jaxkd.readers import bands, depth, listing, opening

# Of ImageNet's training images, as used by nearly all published networks.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_ATTEMPTS = 10
# How images that are made to fit are recorded; see ``center_crop`` and ``fit``.
CENTER_CROP = "center_crop"
T = TypeVar("T")
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".heic", ".heif"),
)


def find(
    inputs: Iterable[str | Path],
    output: str | Path | None = None,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> Iterator[Path]:
    """Lists image files: those that are named, and all below the folders named.

    Args:
      inputs: files, taken whatever their name, and folders, searched for ``suffixes``
        as ``listing.below`` does.
      output: folder that results go to, which is not searched.
      suffixes: endings of names, in small letters.

    Raises:
      UserError: if nothing is named, there is no such path, a folder holds no image, or
        is the output itself.
    """
    paths = [Path(path).expanduser() for path in inputs]
    if not paths:
        raise UserError("--mode=predict needs --inputs, image files or folders.")
    for path in paths:
        if path.is_file():
            yield path
            continue
        if not path.is_dir():
            raise UserError(f"--inputs: {listing.shown(path)} does not exist.")
        check_output(path, output)
        below = listing.below(path, [] if output is None else [Path(output)])
        found = [p for p in below if p.name.lower().endswith(suffixes)]
        if not found:
            raise UserError(
                f"{listing.shown(path)} holds no image files, expected some of "
                f"{', '.join(suffixes)}."
            )
        yield from found


def check_output(folder: Path, output: str | Path | None) -> None:
    """Checks that results do not go among the inputs, to be read the next time.

    Raises:
      UserError: if the output is the folder of inputs itself.
    """
    if output is not None and folder.resolve() == Path(output).resolve():
        raise UserError(
            f"--output: {output} is the folder of the inputs, expected another: the "
            "next prediction would read its results. Choose a new folder."
        )


def decode(path: Path, channels: int = 3, max_pixels: int | None = None) -> np.ndarray:
    """Decodes an image file to uint8 ``[height, width, channels]``, upright.

    The EXIF orientation is applied, numbers of more than 8 bits are scaled to 8 by
    their depth (``depth``), and other colour spaces are converted. With 1
    channel the result is grey, with 3 RGB; transparent pixels are then shown on white.
    With 2 it is grey, and with 4 RGB, and the transparency as it is stored. TIFF files
    that hold other things than colours and transparency are read as they are, if they
    have that number of channels; for 5 and more they are all that is read.

    Args:
      path: of the file.
      channels: 1 or more.
      max_pixels: most pixels that are accepted; None for Pillow's limit, and
        ``opening.BLANK_PIXELS`` in a file that has few bytes for them.

    Raises:
      UserError: if the file is not an image, is cut short, damaged where its format has
        a checksum, unreasonably large, or of another number of channels.
    """
    check_channels(channels)
    path = Path(path)
    if channels not in (1, 3):
        with parsing.parsing(path, "an image", bands.REMEDY):
            layered = channels not in _MODES or bands.is_in(path)
        if layered:
            return bands.read(path, channels, max_pixels or _most_pixels())
    convert = functools.partial(_convert, channels=channels)
    return opened(path, convert, max_pixels)


def decode_bytes(
    data: bytes, origin: str, channels: int = 3, remedy: str = bands.REMEDY
) -> np.ndarray:
    """Decodes the content of an image file; see ``decode``.

    Args:
      data: the content.
      origin: where it is from, for error messages.
      channels: 1, 2, 3 or 4.
      remedy: what to do about damaged data, for error messages.

    Raises:
      UserError: as ``decode``.
    """
    with parsing.parsing(origin, f"an image ({len(data):,} bytes)", remedy):
        convert = functools.partial(_convert, channels=channels)
        return _apply(io.BytesIO(data), convert, None)


def check_channels(channels: int) -> None:
    """Checks an option of that name.

    Raises:
      UserError: if it is below 1.
    """
    if channels < 1:
        raise UserError(
            f"channels is {channels}, expected 1 (grey), 3 (RGB), 4 (with transparency)"
            " or as many as the files have."
        )


def upright(image: Any) -> Any:
    """Turns an image as its EXIF orientation says; tags of TIFF stay with it."""
    from PIL import ImageOps

    turned: Any = ImageOps.exif_transpose(image)
    if tags := getattr(image, "tag_v2", None):
        turned.tag_v2 = tags
    return turned


def _convert(image: Any, channels: int) -> np.ndarray:
    pixels = np.array(_to_channels(upright(image), channels))
    return pixels[..., None] if channels == 1 else pixels


def opened(
    path: Path, function: Callable[[Any], T], max_pixels: int | None = None
) -> T:
    """Applies a function to an image file, whose pixels are loaded and checked.

    Args:
      path: of the file.
      function: of the Pillow image.
      max_pixels: see ``decode``.

    Raises:
      UserError: see ``decode``.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{listing.shown(path)} is no file, expected an image.")
    with parsing.parsing(path, "an image", bands.REMEDY):
        return _apply(path, function, max_pixels)


def _apply(
    source: Path | io.BytesIO, function: Callable[[Any], T], max_pixels: int | None
) -> T:
    opening.check_png(source)
    with _limit(max_pixels), opening.opened(source, max_pixels is not None) as image:
        deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        image.load()
        depth.check(image, deep)
        return function(image)


def _most_pixels() -> int:
    from PIL import Image

    return 2 * (Image.MAX_IMAGE_PIXELS or 1 << 62)  # where Pillow refuses


@contextlib.contextmanager
def _limit(pixels: int | None) -> Iterator[None]:
    """Sets Pillow's limit of pixels for a while."""
    from PIL import Image

    if pixels is None:
        try:
            yield
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"{error} Make it smaller, or raise "
                "the limit by the option max_pixels where there is one"
            ) from error
        return
    with _LOCK:
        before = Image.MAX_IMAGE_PIXELS
        # Pillow refuses twice its limit, and warns from it on.
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _to_channels(image: Any, channels: int) -> Any:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(depth.to_eight_bits(image)[0])
    if image.has_transparency_data and channels in (1, 3):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer).convert("RGB")
    return image.convert(_MODES[channels])


_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_LOCK = threading.Lock()


def random_resized_crop(
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Callable[[Example, np.random.Generator], Example]:
    """Makes the training preparation: a random rectangle, resized to a square.

    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6.

    Args:
      size: side of the result.
      scale: range of the rectangle's part of the area, uniform.
      ratio: range of its width over height, uniform in the logarithm.
    """

    def prepare(example: Example, rng: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        left, top, right, bottom = crop_box(height, width, rng, scale, ratio)
        part = example["image"][top:bottom, left:right]
        return example | {"image": resize(part, (size, size))}

    return prepare


def crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draws ``(left, top, right, bottom)`` within an image of ``height x width``.

    If ten draws do not fit, the largest central rectangle within ``ratio`` is taken.
    """
    for _ in range(CROP_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return int(left), int(top), int(left) + w, int(top) + h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def center_crop(size: int) -> Callable[[Example], Example]:
    """Makes the evaluation preparation: shorter side to ``size * 256 / 224``, crop.

    Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, with the sizes in use since.
    """
    shorter = round(size * 256 / 224)

    def prepare(example: Example) -> Example:
        height, width = example["image"].shape[:2]
        factor = shorter / min(height, width)
        new = (
            max(shorter, round(height * factor)),
            max(shorter, round(width * factor)),
        )
        image = resize(example["image"], new)
        top, left = (new[0] - size) // 2, (new[1] - size) // 2
        return example | {"image": image[top : top + size, left : left + size]}

    return prepare


def fit(image: np.ndarray, shape: tuple[int, ...], rule: str = "") -> np.ndarray:
    """Brings an image to the size that a network was trained on.

    Args:
      image: uint8 ``[h, w, c]``.
      shape: ``(height, width, channels)``; of the channels, 1 makes grey of RGB.
      rule: of the data set that the network was trained on (``Info.resize``): with
        ``"center_crop"`` all images are resized and cropped; otherwise those of
        another size alone: cropped to squares, resized to other rectangles.

    Returns:
      uint8 of that shape.

    Raises:
      UserError: if the channels are other ones.
    """
    height, width, channels = shape
    other = image.shape[:2] != (height, width)
    if rule == CENTER_CROP or (other and height == width):
        image = center_crop(height)({"image": image})["image"]
    elif other:
        image = resize(image, (height, width))
    if channels == 1 and image.shape[-1] == 3:
        weights = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
        return np.round(image @ weights)[..., None].astype(np.uint8)
    if image.shape[-1] != channels:
        raise UserError(
            f"The images have {image.shape[-1]} channels, but the network was trained "
            f"on {channels}. Give images of {channels}."
        )
    return image


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 ``[h, w, c]`` to ``shape`` bilinearly, with antialiasing.

    Args:
      image: any number of channels; each by itself, as if none were transparency.
      shape: ``(height, width)`` of the result.
    """
    from PIL import Image

    if image.shape[-1] == 3:
        layers = [image]
    else:
        layers = [image[..., place] for place in range(image.shape[-1])]
    resized = [
        Image.fromarray(one).resize(shape[::-1], Image.Resampling.BILINEAR)
        for one in layers
    ]
    return np.concatenate([np.array(one).reshape(*shape, -1) for one in resized], -1)
