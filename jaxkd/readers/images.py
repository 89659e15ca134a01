"""Photographs on the host: decoding, and the usual crops for training and evaluation.

Shared by the data sets whose images differ in size and therefore cannot be stacked
before they are cropped. Flips and normalisation follow on the device (``views``).
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import Example
from jaxkd.readers import listing

# Of ImageNet's training images, as used by nearly all published networks.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_ATTEMPTS = 10
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def find(
    inputs: Iterable[str | Path], output: str | Path | None = None
) -> Iterator[Path]:
    """Lists image files: those that are named, and all below the folders named.

    Args:
      inputs: files, taken whatever their name, and folders, searched for ``SUFFIXES``
        as ``listing.below`` does.
      output: folder that results go to, which is not searched.

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
        found = [p for p in below if p.name.lower().endswith(SUFFIXES)]
        if not found:
            raise UserError(
                f"{listing.shown(path)} holds no image files, expected some of "
                f"{', '.join(SUFFIXES)}."
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


def decode(path: Path) -> np.ndarray:
    """Decodes an image file to uint8 ``[height, width, 3]`` in RGB, upright.

    The EXIF orientation is applied, transparent pixels are shown on white, 16-bit grey
    is scaled to 8 bits, and other colour spaces are converted.

    Raises:
      UserError: if the file is not an image, is cut short, or is unreasonably large.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except (*DECODING_ERRORS, Image.DecompressionBombError) as error:
        size = f"it has {path.stat().st_size:,} bytes" if path.exists() else "not found"
        raise UserError(
            f"{path} cannot be read as an image: {error} ({size}). Replace it."
        ) from error


def _to_rgb(image):
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, sometimes held in 32
        shades = np.asarray(image).astype(np.int64)
        if shades.min() < 0 or shades.max() > 65_535:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray((shades >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range is unknown")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


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


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 ``[h, w, c]`` to ``shape`` bilinearly, with antialiasing.

    Args:
      image: one or three channels.
      shape: ``(height, width)`` of the result.
    """
    from PIL import Image

    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    resized = picture.resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.array(resized).reshape(*shape, channels)
