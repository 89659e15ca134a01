"""Opens image files: formats, numbers of pixels, and checksums that Pillow omits."""

import contextlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxkd.core import optional

# Pillow's names of these formats. Others are not even tried: EPS starts Ghostscript.
FORMATS = (
    *("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000"),
    *("HEIF", "AVIF"),
)
# A blank picture packs to nearly nothing: no more pixels than these are taken from a
# file with less than a byte for each hundred, unless max_pixels says so.
BLANK_PIXELS, PIXELS_PER_BYTE = 1 << 25, 100
_TIFF = (b"II*\0", b"MM\0*")
_HEIF = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def opened(source: Path | io.BytesIO, unchecked: bool = False) -> Any:
    """Opens an image by Pillow and checks its size; its pixels are not loaded yet.

    Args:
      source: a file or its content.
      unchecked: whether few bytes may hold any number of pixels.

    Raises:
      ValueError: if it is none of ``FORMATS``, or has more than ``BLANK_PIXELS`` pixels
        in too few bytes.
      Exception: of any kind, if it is damaged; wrap it by ``parsing``.
    """
    from PIL import Image, UnidentifiedImageError

    with _stream(source) as file:
        begin = file.read(12)
        size = file.seek(0, 2)
    if not begin:
        raise ValueError("it is empty")
    if begin[4:8] == b"ftyp" and begin[8:12] in _HEIF:
        heif = optional.load("pillow_heif", extra="heic", purpose="HEIC images")
        heif.register_heif_opener()
    Image.init()  # which makes the formats known by their names
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(source, formats=known)
    except UnidentifiedImageError as error:
        kind = "its content is of no known format"
        if begin[:4] in _TIFF:
            kind = (
                "it is a TIFF file of no colours that are known: layers are read by "
                "channels=their number, floats not at all"
            )
        raise ValueError(kind) from error
    pixels = image.width * image.height
    if pixels > max(BLANK_PIXELS, PIXELS_PER_BYTE * size) and not unchecked:
        image.close()
        raise ValueError(
            f"it declares {image.width:,} x {image.height:,} pixels in {size:,} bytes, "
            f"expected at most {BLANK_PIXELS:,} or {PIXELS_PER_BYTE} for each byte. "
            "Raise the limit by max_pixels"
        )
    return image


@contextlib.contextmanager
def _stream(source: Path | io.BytesIO) -> Iterator[BinaryIO]:
    """Gives a file at its beginning; bytes in memory stay open, and there again."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source
        source.seek(0)


def check_png(source: Path | io.BytesIO) -> None:
    """Checks the sums of a PNG file's parts, which Pillow does not for pixels.

    Raises:
      ValueError: if one is cut short, or does not fit.
    """
    with _stream(source) as file:
        size = file.seek(0, 2)
        file.seek(0)
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return
        while True:
            head = file.read(8)
            length = int.from_bytes(head[:4], "big")
            part = file.read(min(length, size))
            sum_ = file.read(4)
            if len(head) < 8 or len(part) < length or len(sum_) < 4:
                raise ValueError("it is cut short")
            if zlib.crc32(part, zlib.crc32(head[4:])) != int.from_bytes(sum_, "big"):
                kind = head[4:].decode("latin1")
                raise ValueError(f"its part {kind!r} does not fit its checksum")
            if head[4:] == b"IEND":
                return
