"""Many small images as one picture."""

from typing import Any

import numpy as np


def mosaic(images: np.ndarray, gap: int = 1, columns: int | None = None) -> Any:
    """Returns a Pillow picture of images in rows, small ones enlarged.

    Args:
      images: uint8 ``[n, height, width, channels]`` of one or three channels.
      gap: pixels between two, before they are enlarged.
      columns: images in a row; None makes the picture about square.
    """
    from PIL import Image

    count, height, width, channels = images.shape
    zoom = max(1, 64 // height)
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    gap, height, width = gap * max(2, zoom // 4), height * zoom, width * zoom
    columns = int(np.ceil(np.sqrt(count))) if columns is None else columns
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    page = np.full(shape, 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        page[top : top + height, left : left + width] = image
    return Image.fromarray(page[..., 0] if channels == 1 else page)


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Returns images of [-1, 1] as uint8."""
    return np.clip(127.5 * np.asarray(images) + 128, 0, 255).astype(np.uint8)
