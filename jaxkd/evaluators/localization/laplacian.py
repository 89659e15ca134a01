"""Marks what is smooth: the baseline that a localiser has to beat.

Filled-in regions lack noise: the score of a pixel is how little it differs from its
neighbours, averaged over some distance.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxkd.evaluators.base import TrainedStudy
from jaxkd.metrics import localization

_TUNING = 300  # training images by which width and threshold are chosen


class Baseline(NamedTuple):
    """The Laplacian's scores of the test images, and where they are cut.

    Attributes:
      maps: ``[n, h, w]``, larger where smoother.
      threshold: from which a pixel is marked.
    """

    maps: np.ndarray
    threshold: float


def tuned(trained: TrainedStudy, truth: Mapping[str, np.ndarray]) -> Baseline:
    """Scores test images, width and threshold chosen by IoU on training images."""
    source = trained.dataset.train(trained.seeds[0])
    count = min(_TUNING, len(source))
    examples = [trained.dataset.prepare_test(source[i]) for i in range(count)]
    chosen = [e for e in examples if e["label"] > 0]
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


def smoothness(image: np.ndarray, sigma: float) -> np.ndarray:
    """Returns minus the smoothed, absolute Laplacian of the grey image, ``[h, w]``."""
    from scipy import ndimage

    grey = image.astype(np.float64).mean(-1)
    return -ndimage.gaussian_filter(np.abs(ndimage.laplace(grey)), sigma)


def fast_iou(marked: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the IoU of each image, 0 where nothing is marked nor true, ``[n]``."""
    both = (marked & truth).sum((1, 2))
    return both / np.maximum((marked | truth).sum((1, 2)), 1)
