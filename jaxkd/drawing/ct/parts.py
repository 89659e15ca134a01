"""Parts of a drawn chest scan that all laws share: body, lungs, vessels, noise.

Images are float, in Hounsfield units, on a grid ``(depth, height, width)``; functions
called ``add_`` change theirs in place.
"""

from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]

AIR, BODY, BONE = -1000.0, 40.0, 400.0
DENSE = -350.0  # bands and lesions are added only where there is less than this


class Scan(NamedTuple):
    """One scan on a grid ``(depth, height, width)``.

    Depth runs from feet to head, height from front to back, width from the patient's
    right to the left.

    Attributes:
      image: int16, Hounsfield units.
      lesion: uint8, 1 inside lesions; empty for a normal scan.
      lungs: uint8, 1 inside lungs.
      distractors: uint8, 1 inside what is as bright as a lesion and is none; None where
        the law has no such thing.
    """

    image: np.ndarray
    lesion: np.ndarray
    lungs: np.ndarray
    distractors: np.ndarray | None = None


class Lungs(NamedTuple):
    """Where the lungs are.

    Attributes:
      inside: bool, whether a voxel is in a lung.
      radius: 0 in the middle of the nearest lung, 1 at its border.
    """

    inside: np.ndarray
    radius: np.ndarray


def _grid(shape: Shape) -> list[np.ndarray]:
    axes = [np.linspace(-1, 1, size) for size in shape]
    return list(np.meshgrid(*axes, indexing="ij"))


def body(rng: np.random.Generator, shape: Shape) -> tuple[np.ndarray, Lungs]:
    """Draws body, ribs and empty lungs."""
    z, y, x = _grid(shape)
    angle = np.deg2rad(rng.uniform(-4, 4))
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    size = rng.uniform(0.93, 1.07)
    radius = np.hypot(x / (0.92 * size), y / (0.75 * size))
    image = np.where(radius < 1, BODY, AIR)
    ribs = np.cos(np.pi * (z + 0.35 * y) * rng.uniform(4.5, 5.5) + rng.uniform(0, 6))
    image[(radius > 0.88) & (radius < 0.98) & (ribs > 0.3)] = BONE
    base, gradient = rng.uniform(-900, -780), rng.uniform(0, 90)
    inside, nearest = np.zeros(shape, bool), np.full(shape, np.inf)
    for side in (-1, 1):
        width, height, depth = np.array([0.33, 0.55, 0.95]) * rng.uniform(0.93, 1.07, 3)
        distance = np.sqrt(
            ((x - side * 0.43) / width) ** 2 + (y / height) ** 2 + (z / depth) ** 2
        )
        inside |= (distance < 1) & (radius < 0.85)
        nearest = np.minimum(nearest, distance)
    image = np.where(inside, base + gradient * (y + 1) / 2, image)
    return image, Lungs(inside, nearest)


def smooth_noise(rng: np.random.Generator, sigma: float, shape: Shape) -> np.ndarray:
    """Returns Gaussian noise, smoothed, of mean 0 and deviation 1."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal(shape, np.float32)
    noise = gaussian_filter(noise, sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def add_vessels(
    image: np.ndarray,
    lungs: Lungs,
    rng: np.random.Generator,
    shares: tuple[float, float] = (0.025, 0.07),
) -> None:
    """Adds vessels: the brightest places of a smooth field.

    Args:
      image: changed in place.
      lungs: where they may be.
      rng: draws them.
      shares: of the lungs that they fill, at least and at most.
    """
    field = smooth_noise(rng, 1.2, image.shape)
    share = rng.uniform(*shares)
    vessels = lungs.inside & (field > np.quantile(field[lungs.inside], 1 - share))
    image[vessels] = rng.uniform(-300, 0, int(vessels.sum()))


def way(centre: np.ndarray, shape: Shape) -> list[np.ndarray]:
    """Returns the way from a voxel to all others along each axis, to be broadcast."""
    axes = [
        np.arange(n, dtype=np.float32) - c for n, c in zip(shape, centre, strict=True)
    ]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def pick(where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random voxel of a mask."""
    places = np.argwhere(where)
    return places[rng.integers(len(places))]


def add_band(image: np.ndarray, lungs: Lungs, rng: np.random.Generator) -> None:
    """Adds a plate about 1.3 voxels thick: dense, and no lesion."""
    z, y, x = way(pick(lungs.inside, rng), image.shape)
    normal = rng.normal(size=3).astype(np.float32)
    normal /= np.linalg.norm(normal)
    across = normal[0] * z + normal[1] * y + normal[2] * x
    along = np.sqrt(np.maximum(z**2 + y**2 + x**2 - across**2, 0))
    plate = np.exp(-0.5 * (across / 0.65) ** 2)
    plate /= 1 + np.exp(np.clip((along - rng.uniform(5, 9)) / 0.6, -30, 30))
    free = lungs.inside & (image < DENSE)
    image[free] += rng.uniform(200, 420) * plate[free]


def finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds the scanner's noise and rounds to int16."""
    image = image + rng.normal(0, rng.uniform(25, 60), image.shape)
    return np.clip(np.round(image), -1024, 3071).astype(np.int16)


def depth(inside: np.ndarray) -> np.ndarray:
    """Returns how far each voxel lies below the lungs' border, in voxels; outside 0."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(inside)
