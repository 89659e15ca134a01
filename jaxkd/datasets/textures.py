"""Textures of oriented noise, twelve classes: what low resolution blurs first.

A class is a direction and a scale: white noise is filtered to a band of frequencies
around ``frequency`` waves per image along ``direction``. The finest scale lies above
what an image of a quarter of the size can hold, where only its aliases are left.
"""

import functools
from typing import Annotated

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Range
from jaxkd.core.source import ArraySource, Dataset, Info

DIRECTIONS = (0, 45, 90, 135)  # degrees of the waves' normal, from across to down
FREQUENCIES = (4.0, 6.5, 10.0)  # waves per image, for each of which a class exists
CLASSES = tuple(f"{d}° at {f:g}" for d in DIRECTIONS for f in FREQUENCIES)
TRAIN, TEST, VALIDATION, FEW = range(4)  # seed the generator, so never renumber
SPLITS = {"test": TEST, "validation": VALIDATION}
STATISTICS = ((0.5,) * 3, (0.2,) * 3)
CHUNK = 200


def load(
    size: int = 64,
    train: int = 2_400,
    test: int = 1_200,
    per_class: int | None = None,
    noise: Annotated[float, Range()] = 1.0,
    evaluate_on: str = "test",
    seed: int = 0,
) -> Dataset:
    """Makes the data set; image ``i`` of a split has class ``i % 12``.

    Args:
      size: side of the images, at least 32.
      train: images for training, a multiple of 12.
      test: images to evaluate on, likewise.
      per_class: if given, training seed ``s`` has its own ``12 * per_class`` images,
        instead of the common ones: few labels beside a teacher who saw many.
      noise: of all frequencies, in standard deviations of the texture.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of the images.

    Raises:
      UserError: if an option is out of its range.
    """
    split = lookup.choose(evaluate_on, SPLITS, what="evaluate_on")
    if size < 32:
        raise UserError(
            f"size is {size}, expected at least 32: textures have 10 waves."
        )
    for name, count in (("train", train), ("test", test)):
        if count <= 0 or count % len(CLASSES):
            raise UserError(
                f"{name} is {count}, expected a positive multiple of {len(CLASSES)}."
            )
    if per_class is not None and per_class < 1:
        raise UserError(f"per_class is {per_class}, expected at least 1.")

    def training_images(training_seed: int) -> ArraySource:
        if per_class is None:
            return ArraySource(_draw(size, train, noise, (seed, TRAIN)))
        count = per_class * len(CLASSES)
        return ArraySource(_draw(size, count, noise, (seed, FEW, training_seed)))

    info = Info("textures", len(CLASSES), (size, size, 3), *STATISTICS, CLASSES)
    examples = ArraySource(_draw(size, test, noise, (seed, split)))
    return Dataset(info, training_images, examples)


@functools.lru_cache(maxsize=16)
def _draw(
    size: int, count: int, noise: float, seed: tuple[int, ...]
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % len(CLASSES)).astype(np.int32)
    parts = np.array_split(labels, -(-count // CHUNK))
    images = np.concatenate([_images(rng, part, size, noise) for part in parts])
    arrays = {"image": images, "label": labels}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def _images(rng, labels: np.ndarray, size: int, noise: float) -> np.ndarray:
    """Filters noise, adds other noise, and gives it contrast, brightness and tint."""
    count = len(labels)
    direction = np.deg2rad(np.array(DIRECTIONS)[labels // len(FREQUENCIES)])
    direction = direction + np.deg2rad(rng.uniform(-14, 14, count))
    scale = np.array(FREQUENCIES)[labels % len(FREQUENCIES)]
    scale = scale * np.exp(rng.uniform(-0.16, 0.16, count))
    white = np.fft.rfft2(rng.normal(size=(count, size, size)))
    texture = np.fft.irfft2(white * _band(direction, scale, size), s=(size, size))
    texture /= texture.std((1, 2), keepdims=True)
    texture += noise * rng.normal(size=texture.shape)
    contrast = rng.uniform(0.08, 0.16, (count, 1, 1, 1))
    tint = 1 + 0.2 * rng.normal(size=(count, 1, 1, 3))
    level = rng.uniform(0.35, 0.65, (count, 1, 1, 3))
    image = level + contrast * tint * texture[..., None]
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _band(direction: np.ndarray, scale: np.ndarray, size: int) -> np.ndarray:
    """Makes filters ``[n, size, size // 2 + 1]``: Gaussians in log scale and angle."""
    down = np.fft.fftfreq(size, 1 / size)[None, :, None]
    across = np.fft.rfftfreq(size, 1 / size)[None, None, :]
    radius = np.hypot(down, across) + 1e-9
    angle = np.arctan2(down, across) - direction[:, None, None]
    turn = (angle + np.pi / 2) % np.pi - np.pi / 2  # a wave has no front
    octave = np.log(radius / scale[:, None, None])
    band = np.exp(-0.5 * (octave / 0.18) ** 2 - 0.5 * (turn / 0.22) ** 2)
    band[:, 0, 0] = 0
    return band
