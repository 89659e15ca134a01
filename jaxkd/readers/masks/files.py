"""Image and mask files as forensics needs them: no pixel is invented, doubts are told.

Unlike ``images.decode``, transparency is dropped and not composed (which would leave
traces that the picture never had), and grey of 16 bits is scaled and not cut.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.readers.images import DECODING_ERRORS

Note = Callable[[str], None]

_TWELVE_BITS = 4096
_EXIF_ORIENTATION = 0x0112
_MOSTLY = 0.6
_BETWEEN = (10, 245)
_MOST_BETWEEN = 0.05


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
      pixels: uint8 ``[height, width, 3]``, upright.
      orientation: EXIF orientation that was undone; 1 for none.
      stored: ``(height, width)`` as it lies in the file.
    """

    pixels: np.ndarray
    orientation: int
    stored: tuple[int, int]


def read_image(path: Path, note: Note) -> Picture:
    """Decodes an image to RGB, upright; colour profiles are ignored.

    Args:
      path: of the file.
      note: takes what is doubtful about it.

    Raises:
      UserError: if it cannot be read.
    """
    from PIL import ImageOps

    def decode(image: Any) -> Picture:
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
        stored = (image.height, image.width)
        image = ImageOps.exif_transpose(image)
        return Picture(_to_rgb(image, path, note), orientation, stored)

    return _open(path, decode)


def read_mask(path: Path, note: Note, *, invert: bool = False) -> np.ndarray:
    """Decodes a mask of whatever kind to uint8 ``[height, width]``, 0 or 255.

    Colours become grey; values above half of the range are foreground. A mask of zeros
    and ones is scaled.

    Args:
      path: of the file.
      note: takes what is doubtful about it.
      invert: whether dark is foreground.

    Raises:
      UserError: if it cannot be read.
    """
    grey = _open(path, lambda image: _to_grey(image, path, note))
    if grey.max(initial=0) == 1:
        note(f"{path}: its values are 0 and 1, scaled to 0 and 255")
        grey = grey * 255
    between = np.mean((grey >= _BETWEEN[0]) & (grey <= _BETWEEN[1]))
    if between > _MOST_BETWEEN:
        note(
            f"{path}: {between:.0%} of its pixels are neither black nor white; cut at "
            "127.5"
        )
    inside = (grey > 127.5) != invert
    if inside.mean() > _MOSTLY:
        advice = "unset" if invert else "set"
        note(
            f"{path}: {inside.mean():.0%} of it is foreground; if it is inverted, "
            f"{advice} invert_masks"
        )
    return np.where(inside, 255, 0).astype(np.uint8)


def fit_mask(
    mask: np.ndarray, picture: Picture, origin: str, note: Note, *, resize: str = ""
) -> np.ndarray:
    """Brings a mask into the frame of its image.

    A mask may be drawn on the image as it is shown or as it is stored; where only the
    latter fits, it is turned as the image was.

    Args:
      mask: ``[height, width]``.
      picture: its image.
      origin: names both files.
      note: takes what is doubtful.
      resize: "nearest" to accept masks of another size.

    Raises:
      UserError: if the sizes differ and ``resize`` is empty.
    """
    shown = picture.pixels.shape[:2]
    turned = picture.orientation > 1
    if mask.shape == shown:
        if turned and picture.stored == shown:
            note(
                f"{origin}: the image has an EXIF orientation of {picture.orientation};"
                " the mask is taken to be drawn on the image as it is shown"
            )
        return mask
    if turned and mask.shape == picture.stored:
        note(f"{origin}: the mask is turned as the image's EXIF orientation says")
        return _turn(mask, picture.orientation)
    if resize == "nearest":
        from PIL import Image

        size = (shown[1], shown[0])
        return np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    hint = ""
    if mask.shape == shown[::-1]:
        hint = " One is the other turned on its side: was it rotated, or its EXIF lost?"
    raise UserError(
        f"{origin}: the image is {_size(shown)} pixels, the mask {_size(mask.shape)}."
        f"{hint} Expected equal sizes; resize_masks='nearest' accepts such masks."
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _open(path: Path, decode: Callable[[Any], Any]) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return decode(image)
    except (*DECODING_ERRORS, Image.DecompressionBombError) as error:
        size = f"it has {path.stat().st_size:,} bytes" if path.exists() else "not found"
        raise UserError(
            f"{path} cannot be read as an image: {error} ({size}). Replace "
            "or remove it."
        ) from error


def _to_rgb(image: Any, path: Path, note: Note) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        grey = _deep_to_byte(image, path, note)
        return np.repeat(grey[..., None], 3, axis=-1)
    if "A" in image.mode or image.mode == "PA":
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() != alpha.max():
            note(f"{path}: its transparency is dropped, the colours kept as stored")
    if image.mode == "RGBA":
        return np.array(image)[..., :3].copy()
    if image.mode == "LA":
        image = image.getchannel("L")
    return np.array(image.convert("RGB"))


def _to_grey(image: Any, path: Path, note: Note) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return _deep_to_byte(image, path, note)
    if image.mode in ("RGBA", "LA"):
        return np.array(image.convert("RGBA").convert("RGB").convert("L"))
    if image.mode == "1":
        return np.array(image.convert("L"))
    return np.array((image.convert("RGB") if image.mode == "P" else image).convert("L"))


def _deep_to_byte(image: Any, path: Path, note: Note) -> np.ndarray:
    """Scales grey of 16 bits to 8, rounding."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range is unknown")
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError("its pixels have more than 16 bits")
    if values.max() <= 1:
        return values.astype(np.uint8)
    top = 65_535
    if values.max() < _TWELVE_BITS:
        top = int(values.max())
        note(f"{path}: 16 bits, of which at most {top} is used; scaled by that")
    return np.round(values * (255 / top)).astype(np.uint8)


def _turn(mask: np.ndarray, orientation: int) -> np.ndarray:
    from PIL import Image

    ways = Image.Transpose
    way = {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }[orientation]
    return np.array(Image.fromarray(mask).transpose(way))
