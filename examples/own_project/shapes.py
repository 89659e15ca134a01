"""A data set of one's own: drawn shapes of any colour and place, under noise."""

import numpy as np

from jaxkd.core.source import ArraySource, Dataset, Info, statistics

NAMES = ("disc", "ring", "square", "cross")


def draw(kind: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws one uint8 ``[size, size, 3]`` image of ``NAMES[kind]``."""
    radius = rng.uniform(0.2, 0.35) * size
    middle = rng.uniform(0.4, 0.6, 2) * size
    y, x = np.mgrid[:size, :size] + 0.5
    down, across = np.abs(y - middle[0]), np.abs(x - middle[1])
    distance = np.hypot(down, across)
    inside = (
        distance < radius,
        np.abs(distance - radius) < 0.08 * size,
        np.maximum(down, across) < 0.8 * radius,
        (np.minimum(down, across) < 0.08 * size) & (np.maximum(down, across) < radius),
    )[kind]
    colours = rng.uniform(0, 255, (2, 3))
    image = np.where(inside[..., None], *colours)
    image += rng.normal(0, 40, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def load(size: int = 16, train: int = 1000, test: int = 400, seed: int = 0) -> Dataset:
    """Draws the data set; the arguments are the keys of ``config.data``."""
    sources = []
    for split, count in enumerate((train, test)):
        rng = np.random.default_rng([seed, split])
        labels = (np.arange(count) % len(NAMES)).astype(np.int32)
        images = np.stack([draw(label, size, rng) for label in labels])
        sources.append(ArraySource({"image": images, "label": labels}))
    mean, std = statistics(sources[0].arrays["image"], "shapes")
    info = Info("shapes", len(NAMES), (size, size, 3), mean, std, NAMES)
    return Dataset(info, lambda seed: sources[0], sources[1])
