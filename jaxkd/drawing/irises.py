"""Draws irises in near infrared: a texture of each identity in polar coordinates."""

from typing import NamedTuple

import numpy as np

COMMON = 0.6  # of the variance


class Circles(NamedTuple):
    """Where an iris is, in pixels.

    Attributes:
      x: of the centre of both circles.
      y: likewise.
      pupil: its radius.
      iris: its radius.
    """

    x: float
    y: float
    pupil: float
    iris: float


def texture(identity: int, *, rows: int = 16, angles: int = 128, seed: int = 0):
    """Draws the texture of an identity: fibres of several widths along the radius.

    Part of it is common to all, which makes them harder to tell apart.

    Args:
      identity: any number from 0.
      rows: from the pupil to the border.
      angles: around.
      seed: of all identities.

    Returns:
      float64 ``[rows, angles]`` of mean 0 and deviation about 1; angles are circular.
    """
    own, common = (
        _fibres(np.random.default_rng((seed, number)), rows, angles)
        for number in (identity + 1, 0)
    )
    return np.sqrt(1 - COMMON) * own + np.sqrt(COMMON) * common


def _fibres(rng: np.random.Generator, rows: int, angles: int) -> np.ndarray:
    down = np.fft.fftfreq(rows, 1 / rows)[:, None]
    across = np.fft.rfftfreq(angles, 1 / angles)[None, :]
    white = np.fft.rfft2(rng.normal(size=(rows, angles)))
    # Fibres run along the radius: slow down the rows, of all widths around.
    band = np.exp(-((down / 2.5) ** 2)) / (1 + (across / 14) ** 4) * (across > 2)
    drawn = np.fft.irfft2(white * band, s=(rows, angles))
    return (drawn - drawn.mean()) / drawn.std()


def draw_iris(
    pattern: np.ndarray, rng: np.random.Generator, *, side: int = 64
) -> tuple[np.ndarray, Circles]:
    """Draws one photograph of an iris.

    The pupil's size, a turn of the head, the light from one side, blur and noise differ
    from photograph to photograph.

    Args:
      pattern: of ``texture``.
      rng: of all that is random.
      side: of the image.

    Returns:
      uint8 ``[side, side, 1]`` and its circles.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    centre = (side - 1) / 2 + rng.uniform(-1.5, 1.5, 2)
    pupil = side * rng.uniform(0.12, 0.17)
    iris = side * rng.uniform(0.43, 0.46)
    y, x = np.mgrid[:side, :side]
    down, across = y - centre[1], x - centre[0]
    radius = np.hypot(down, across)
    turn = np.deg2rad(rng.uniform(-6, 6))
    angle = (np.arctan2(down, across) + turn) % (2 * np.pi)
    rows, angles = pattern.shape
    row = (radius - pupil) / (iris - pupil) * rows - 0.5
    column = angle / (2 * np.pi) * angles
    wrapped = np.concatenate([pattern, pattern[:, :1]], axis=1)
    fibres = map_coordinates(wrapped, [row, column], order=1, mode="nearest")
    image = 0.45 + 0.13 * fibres
    soft = 1.0  # pixels over which borders fade
    image += (0.85 - image) / (1 + np.exp(-(radius - iris) / soft))
    image += (0.08 - image) / (1 + np.exp((radius - pupil) / soft))
    light = rng.normal(size=2) * 0.06
    image = image + light[0] * down / side + light[1] * across / side
    image = gaussian_filter(image, rng.uniform(0.3, 0.6))
    image = image + rng.uniform(0.01, 0.03) * rng.normal(size=image.shape)
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)[..., None]
    place = (float(value) for value in (*centre, pupil, iris))
    return pixels, Circles(*place)
