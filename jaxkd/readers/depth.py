"""Pixels of more than 8 bits, as 8: by the depth that they have."""

from typing import Any

import numpy as np

_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2


def check(image: Any, deep: bool) -> None:
    """Refuses pixels that Pillow takes for others.

    Signed numbers of 8 bits it reads as unsigned. Of 16 bits a colour it keeps the
    upper 8; of 12 bits stored in 16 these are nearly black.

    Args:
      image: a Pillow image, loaded.
      deep: whether its file has more than 8 bits a colour.

    Raises:
      ValueError: if they are signed numbers, or colours whose upper bits are empty.
    """
    tags = getattr(image, "tag_v2", {})
    if _SIGNED in _tag(tags, _FORMAT) and not image.mode.startswith("I"):
        raise ValueError(
            "its pixels are signed numbers of 8 bits; convert it to unsigned ones"
        )
    if not deep:
        return
    if image.mode not in ("RGB", "RGBA", "LA"):
        return
    if max(high for _, high in image.getextrema()[:3]) < 16:
        raise ValueError(
            "its colours have more than 8 bits, of which the upper ones are empty; "
            "convert it to 8 bits a colour"
        )


def to_eight_bits(image: Any) -> tuple[np.ndarray, int]:
    """Scales grey of more than 8 bits to 8, rounding.

    The depth is the file's own (BitsPerSample of TIFF), or, where that is 16 or 32, the
    least of 8, 12 and 16 bits that holds all values: cameras and scanners store fewer
    bits in more, and would else be black.

    Args:
      image: a Pillow image of mode "I", "I;16" or the like.

    Returns:
      uint8 ``[height, width]``, and the depth in bits.

    Raises:
      ValueError: for floats, negative numbers, and more than 16 bits.
    """
    if image.mode.startswith("F"):
        raise ValueError("its pixels are floats, whose range is unknown")
    tags = getattr(image, "tag_v2", {})
    pixels, bits = scaled(np.asarray(image), max(_tag(tags, _BITS), default=16))
    # Pillow turns shades around that are stored as darkness, but not deep ones.
    return (255 - pixels if is_darkness(image) else pixels), bits


def is_darkness(image: Any) -> bool:
    """Tells whether zero is white in an image of more than 8 bits, as it is loaded."""
    tags = getattr(image, "tag_v2", {})
    deep = image.mode.startswith("I")
    return deep and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _tag(tags: Any, number: int) -> tuple[int, ...]:
    value = tags.get(number) or ()
    return value if isinstance(value, tuple) else (value,)


def scaled(pixels: np.ndarray, told: int) -> tuple[np.ndarray, int]:
    """Scales numbers of more than 8 bits to 8 by the depth that a file tells.

    Args:
      pixels: of any shape.
      told: bits that the file tells of each.

    Returns:
      uint8 of that shape, and the depth in bits; see ``to_eight_bits``.

    Raises:
      ValueError: see ``to_eight_bits``.
    """
    if pixels.dtype == np.uint8:
        return pixels, 8
    if pixels.dtype.kind not in "iu":
        raise ValueError(f"its pixels are {pixels.dtype}, whose range is unknown")
    values = pixels.astype(np.int64)
    if values.min() < 0:
        raise ValueError("its pixels are signed and some are negative")
    if values.max() > 65_535:
        raise ValueError("its pixels have more than 16 bits")
    least = next(b for b in (8, 12, 16) if values.max() < 1 << b)
    bits = told if values.max() < 1 << told and told < 16 else least
    top = (1 << bits) - 1
    return np.round(values * (255 / top)).astype(np.uint8), bits
