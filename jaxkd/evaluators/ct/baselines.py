"""Classifiers of plain intensities: what any network on CT scans has to beat."""

from collections.abc import Callable, Iterator

import numpy as np

from jaxkd.core.source import Dataset, Source
from jaxkd.readers.ct.volumes import WINDOWS, resample

BINS = 24
BLOCK = 4  # voxels along each axis that are averaged


def probabilities(dataset: Dataset) -> dict[str, np.ndarray]:
    """Trains logistic regressions on the training scans.

    Returns:
      Name -> probabilities of the test scans ``[scans, classes]``: of a histogram of
      the intensities with their mean and deviation, and of voxels averaged in blocks.
    """
    train = dataset.train(0)
    return {
        "histogram + LR": _fit(histogram, train, dataset.test),
        "averaged voxels + LR": _fit(blocks, train, dataset.test),
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


def _fit(feature: Callable, train: Source, test: Source) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.array([int(train[index]["label"]) for index in range(len(train))])
    # The strength of the penalty that served both best on phantoms.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=3000))
    model.fit(np.stack(list(_features(feature, train))), labels)
    return model.predict_proba(np.stack(list(_features(feature, test))))


def _features(feature: Callable, source: Source) -> Iterator[np.ndarray]:
    low, high = WINDOWS["default"]
    for index in range(len(source)):
        volume = np.asarray(source[index]["image"], np.float32)
        yield feature(np.clip((volume - low) / (high - low), 0, 1))
