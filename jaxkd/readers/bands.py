"""TIFF images of any number of channels: layers of a sensor, of a stain, of radar.

Pillow, which reads all other images, knows colours and transparency alone, and drops
what else a TIFF file holds without a word.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core import optional, parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import depth

REMEDY = "Replace or remove it."
_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLES, _PHOTOMETRIC, _EXTRA, _ORIENTATION = 277, 262, 338, 274
# Photometric interpretation -> channels of its colour: grey, RGB, palette, CMYK, ...
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
_TRANSPARENCY = (1, 2)


def is_in(path: Path) -> bool:
    """Tells whether a file is a TIFF that holds more than a colour and transparency.

    Args:
      path: of the file, which need not be an image.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with path.open("rb") as file:
        begin = file.read(4)
        if begin not in _BEGINNINGS:
            return False
        if begin == _BEGINNINGS[-1]:
            return True  # large and big-endian: Pillow reads none of these
        header = begin + file.read(12 if b"+" in begin else 4)
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
    samples, photometric = int(tags.get(_SAMPLES, 1)), tags.get(_PHOTOMETRIC, 1)
    colours = _COLOURS.get(photometric)
    if colours == 1 and samples == 1:
        return bool(tags.next)  # pages of grey may be channels
    extra = tags.get(_EXTRA, ())
    if not extra and photometric == 2 and samples == 4:
        return False  # taken for transparency, as usual
    clear = sum(kind in _TRANSPARENCY for kind in extra)
    return colours is None or samples != colours + clear or clear > 1


def read(path: Path, channels: int, most: int) -> np.ndarray:
    """Reads a TIFF file whose samples, or whose pages of grey, are the channels.

    Args:
      path: of the file.
      channels: that it must have.
      most: pixels that are accepted.

    Returns:
      uint8 ``[height, width, channels]``; numbers of more bits are scaled (``depth``).

    Raises:
      UserError: if it is no TIFF file, damaged, too large, turned by its orientation,
        or of another number of channels; or without the library ``tifffile``.
    """
    purpose = "TIFF files of several channels"
    tifffile = optional.load("tifffile", extra="tiff", purpose=purpose)
    with parsing.parsing(path, "a TIFF image", REMEDY), tifffile.TiffFile(path) as file:
        series = file.series[0]
        height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
        parsing.check_declared(path, "pixels", height * width, most, REMEDY)
        found = int(np.prod(series.shape)) // (height * width)
        if found != channels:
            raise UserError(
                f"{path} has {found} channels, expected {channels}. Set channels (of "
                "config.data), or leave the file out."
            )
        turned = series.keyframe.tags.get(_ORIENTATION)
        if turned is not None and turned.value != 1:
            raise ValueError(
                f"its orientation tag is {turned.value:d}, expected 1, upright"
            )
        bits = int(series.keyframe.bitspersample)
        return depth.scaled(_channels_last(series, path), bits)[0]


def _channels_last(series: Any, path: Path) -> np.ndarray:
    try:
        pixels = series.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            optional.load("imagecodecs", extra="tiff", purpose=f"{path}, compressed")
        raise
    places = [series.axes.index(axis) for axis in "YX"]
    rows_first = np.moveaxis(pixels, places, (0, 1))
    return np.ascontiguousarray(rows_first.reshape(*rows_first.shape[:2], -1))
