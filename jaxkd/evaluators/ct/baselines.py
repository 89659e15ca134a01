"""Classifiers of plain intensities, and of lesions whose place is known.

The first are what any network on CT scans has to beat; the second read the true masks
and tell what there is to be found at all.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxkd.core.source import Dataset, Source
from jaxkd.readers.ct.volumes import WINDOWS, resample

BINS = 24
BLOCK = 4  # voxels along each axis that are averaged
DEPTHS = 8  # voxels below the lungs' border that are told apart

Example = Mapping[str, Any]


def probabilities(dataset: Dataset) -> dict[str, np.ndarray]:
    """Trains logistic regressions on the intensities of the training scans.

    Returns:
      Name -> probabilities of the test scans ``[scans, classes]``: of a histogram of
      the intensities with their mean and deviation, and of voxels averaged in blocks.
    """
    return {
        "histogram + LR": _fit(lambda one: histogram(_windowed(one)), dataset),
        "averaged voxels + LR": _fit(lambda one: blocks(_windowed(one)), dataset),
    }


def oracles(dataset: Dataset) -> dict[str, np.ndarray]:
    """Trains logistic regressions on the true masks of the training scans' lesions.

    Returns:
      As ``probabilities``, of the masks averaged in blocks, each place for itself, and
      of ``relations``; nothing where the masks are not known.
    """
    if not {"lesion", "lungs"} <= set(dataset.test[0]):
        return {}
    return {
        "lesion masks + LR": _fit(
            lambda one: blocks(np.asarray(one["lesion"], np.float32)), dataset
        ),
        "oracle (relations of lesion masks) + LR": _fit(
            lambda one: relations(one["lesion"], one["lungs"]), dataset
        ),
    }


def histogram(volume: np.ndarray) -> np.ndarray:
    """Returns the histogram, mean and deviation of a volume in [0, 1]."""
    counts = np.histogram(volume, BINS, (0, 1))[0] / volume.size
    return np.concatenate([counts, [volume.mean(), volume.std()]])


def blocks(volume: np.ndarray) -> np.ndarray:
    """Returns a volume averaged over blocks of about ``BLOCK`` voxels, flat.

    At most 16 blocks along an axis.
    """
    size = [min(max(round(n / BLOCK), 1), 16) for n in volume.shape]
    exact = all(n == BLOCK * m for n, m in zip(volume.shape, size, strict=True))
    if exact:
        parts = [side for m in size for side in (m, BLOCK)]
        return volume.reshape(parts).mean((1, 3, 5)).reshape(-1)
    return resample(volume, size).reshape(-1)


def relations(lesion: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Describes where lesions lie in relation to each other and to the lungs.

    Args:
      lesion: mask ``[depth, height, width]``.
      lungs: likewise.

    Returns:
      Of the eight octants of the volume, which have a lesion (8) and which two have one
      each (28); and the shares of the lesions' voxels by their depth below the lungs'
      border (``DEPTHS``).
    """
    from scipy.ndimage import distance_transform_edt

    lesion = np.asarray(lesion) > 0
    octants = [
        part.any()
        for slab in np.array_split(lesion, 2, 0)
        for row in np.array_split(slab, 2, 1)
        for part in np.array_split(row, 2, 2)
    ]
    there = np.array(octants, np.float64)
    pairs = np.outer(there, there)[np.triu_indices(len(there), 1)]
    depth = distance_transform_edt(np.asarray(lungs) > 0)[lesion]
    counts = np.histogram(np.clip(depth, 0.5, DEPTHS), DEPTHS, (0.5, DEPTHS))[0]
    return np.concatenate([there, pairs, counts / max(lesion.sum(), 1)])


def _windowed(example: Example) -> np.ndarray:
    low, high = WINDOWS["default"]
    return np.clip(
        (np.asarray(example["image"], np.float32) - low) / (high - low), 0, 1
    )


def _fit(feature: Callable[[Example], np.ndarray], dataset: Dataset) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = dataset.train(0), dataset.test
    labels = np.array([int(train[index]["label"]) for index in range(len(train))])
    # The strength of the penalty that served both best on phantoms.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=3000))
    model.fit(_features(feature, train), labels)
    return model.predict_proba(_features(feature, test))


def _features(feature: Callable[[Example], np.ndarray], source: Source) -> np.ndarray:
    return np.stack([feature(source[index]) for index in range(len(source))])
