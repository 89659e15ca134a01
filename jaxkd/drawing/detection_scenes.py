"""Draws scenes of several digits on a textured background, with their boxes.

Digits come from the bank of ``jaxkd.drawing.glyphs``; each has its own font, size,
angle and colour. They may touch, and none covers more than a part of another.
"""

import functools

import numpy as np

from jaxkd.drawing import glyphs
from jaxkd.metrics.detection import ImageBoxes

CLASSES = tuple(c for c in glyphs.CLASSES if c.isascii() and c.isdigit())
_ATTEMPTS = 20
_MOST_OVERLAP = 0.15  # of the smaller box


def draw_scene(
    rng: np.random.Generator,
    *,
    side: int = 96,
    count: tuple[int, int] = (1, 5),
    size: tuple[float, float] = (14.0, 40.0),
    classes: int = len(CLASSES),
) -> tuple[np.ndarray, ImageBoxes]:
    """Draws one scene.

    Args:
      rng: of all that is random.
      side: of the image.
      count: least and most digits.
      size: smallest and largest font, in pixels, uniform in the logarithm.
      classes: digits are below it.

    Returns:
      uint8 ``[side, side, 3]``, and the boxes of the digits' ink.
    """
    from scipy.ndimage import gaussian_filter

    background = rng.uniform(0.1, 0.9, 3)
    texture = gaussian_filter(rng.normal(size=(side, side)), 4, mode="wrap")
    image = background + 0.1 * (texture / texture.std())[..., None]
    boxes: list[np.ndarray] = []
    drawn: list[int] = []
    for _ in range(rng.integers(count[0], count[1] + 1)):
        for _ in range(_ATTEMPTS):
            label = int(rng.integers(classes))
            pixels = np.exp(rng.uniform(*np.log(size)))
            ink, box = _place(rng, label, pixels, side)
            if box is not None and not any(_covers(box, other) for other in boxes):
                break
        else:
            continue  # no room for it
        sign = -1 if background.mean() > 0.5 else 1
        colour = background + sign * rng.uniform(0.3, 0.7) + 0.1 * rng.normal(size=3)
        image = image + ink[..., None] * (np.clip(colour, 0, 1) - image)
        boxes.append(box)
        drawn.append(label)
    image = image + rng.uniform(0.0, 0.04) * rng.normal(size=image.shape)
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    found = np.asarray(boxes, np.float32).reshape(-1, 4)
    return pixels, ImageBoxes(found, np.asarray(drawn, np.int32))


@functools.cache
def _bank() -> np.ndarray:
    places = [glyphs.CLASSES.index(c) for c in CLASSES]
    return glyphs.glyph_bank(32)[places] / 255.0


def _place(rng, label: int, pixels: float, side: int):
    """Returns the ink of a digit somewhere in the image, and its box, if it fits."""
    from scipy.ndimage import affine_transform, gaussian_filter

    bank = _bank()
    cell = bank[label, rng.integers(bank.shape[1])]
    scale = glyphs.LAWS[32].font_pixels / pixels
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    reach = int(np.ceil(0.75 * pixels)) + 1  # half of the patch that is drawn
    patch = 2 * reach + 1
    offset = (len(cell) - 1) / 2 - turn @ np.array([reach, reach])
    source = gaussian_filter(cell, 0.35 * max(scale, 0.1))
    ink = np.clip(affine_transform(source, turn, offset, (patch, patch), order=1), 0, 1)
    rows, columns = (np.flatnonzero((ink > 0.2).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None, None
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    if max(height, width) > side:
        return None, None
    top, left = (int(rng.integers(side - length + 1)) for length in (height, width))
    whole = np.zeros((side + 2 * patch, side + 2 * patch))
    row, column = patch + top - rows[0], patch + left - columns[0]
    whole[row : row + patch, column : column + patch] = ink
    box = np.array([left, top, left + width, top + height], np.float32)
    return whole[patch : patch + side, patch : patch + side], box


def _covers(a: np.ndarray, b: np.ndarray) -> bool:
    inner = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    smaller = min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod())
    return bool(inner > _MOST_OVERLAP * smaller)
