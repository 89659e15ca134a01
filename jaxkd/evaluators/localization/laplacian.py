"""Marks what is smooth: the baseline that a localiser has to beat.

Filled-in regions lack noise: the score of a pixel is how little it differs from its
neighbours, averaged over some distance.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxkd.core.source import Example
from jaxkd.evaluators.base import TrainedStudy
from jaxkd.metrics import localization

_TUNING = 300  # training images by which width and threshold are chosen
_LEAST_TAMPERED = 30  # of them; further images are looked at where they are fewer


class Baseline(NamedTuple):
    """The Laplacian's scores of the test images, and where they are cut.

    Attributes:
      maps: ``[n, h, w]``, larger where smoother.
      threshold: from which a pixel is marked.
    """

    maps: np.ndarray
    threshold: float


def tuned(trained: TrainedStudy, truth: Mapping[str, np.ndarray]) -> Baseline | None:
    """Scores test images, width and threshold chosen by IoU on training images.

    Returns None if no training image is tampered.
    """
    chosen = _tampered(trained)
    if not chosen:
        return None
    masks = np.stack([e["target_mask"] for e in chosen]) / 255.0
    best = (-1.0, 0.0, 0.0)
    for sigma in (1.0, 2.0, 3.0):
        maps = np.stack([smoothness(e["image"], sigma) for e in chosen])
        for threshold in np.quantile(maps, np.linspace(0.5, 0.98, 25)):
            iou = localization.mean(fast_iou(maps >= threshold, masks > 0.5))
            best = max(best, (iou, sigma, float(threshold)))
    _, sigma, threshold = best
    maps = np.stack([smoothness(image, sigma) for image in truth["image"]])
    return Baseline(maps, threshold)


def _tampered(trained: TrainedStudy) -> list[Example]:
    """Returns tampered images of the first training images.

    A list may begin with authentic images, so that the first may hold few or none.
    """
    source = trained.dataset.train(trained.seeds[0])
    found: list[Example] = []
    for index in range(len(source)):
        if index >= _TUNING and len(found) >= _LEAST_TAMPERED:
            break
        example = trained.dataset.prepare_test(source[index])
        if example["label"] > 0:
            found.append(example)
    return found


def smoothness(image: np.ndarray, sigma: float) -> np.ndarray:
    """Returns minus the smoothed, absolute Laplacian of the grey image, ``[h, w]``."""
    from scipy import ndimage

    grey = image.astype(np.float64).mean(-1)
    return -ndimage.gaussian_filter(np.abs(ndimage.laplace(grey)), sigma)


def fast_iou(marked: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the IoU of each image, 0 where nothing is marked nor true, ``[n]``."""
    both = (marked & truth).sum((1, 2))
    return both / np.maximum((marked | truth).sum((1, 2)), 1)
