"""Scores of a forgery detector: by frame, by video, by method and by label."""

from collections.abc import Sequence

import numpy as np

from jaxkd.metrics.classification import auc, calibration_error
from jaxkd.metrics.verification import equal_error_rate

Array = np.ndarray


def video_means(
    scores: Array, fake: Array, keys: Sequence[tuple[str, str]]
) -> tuple[Array, Array]:
    """Averages the scores of each video.

    DeepfakeBench tells videos apart by the name of their folder alone, and so merges
    the videos of different methods that share a name; the keys here hold both.

    Args:
      scores: ``[frames]``.
      fake: bool ``[frames]``.
      keys: (method, video) of each frame.

    Returns:
      Mean scores and labels, ``[videos]``.

    Raises:
      ValueError: if a video is both real and fake.
    """
    _, place = np.unique([f"{m}\0{v}" for m, v in keys], return_inverse=True)
    count = np.bincount(place)
    share = np.bincount(place, np.asarray(fake, float)) / count
    mixed = np.flatnonzero((share > 0) & (share < 1))
    if mixed.size:
        key = keys[int(np.flatnonzero(place == mixed[0])[0])]
        raise ValueError(f"Video {key} has real and fake frames. Split it by method.")
    return np.bincount(place, scores) / count, share > 0.5


def binary_scores(probability: Array, fake: Array) -> dict[str, float]:
    """Computes accuracy at 0.5, AUC, EER, average precision and calibration error.

    Args:
      probability: ``[images]``, of being fake.
      fake: bool ``[images]``.

    Returns:
      Each by name; NaN for what needs both classes where there is only one.
    """
    from sklearn.metrics import average_precision_score

    probability, fake = np.asarray(probability, float), np.asarray(fake, bool)
    both = fake.any() and not fake.all()
    nan = float("nan")
    pair = np.stack([1 - probability, probability], axis=1)
    return {
        "accuracy": float(np.mean((probability >= 0.5) == fake)),
        "auc": auc(probability, fake),
        "eer": equal_error_rate(probability, fake) if both else nan,
        "ap": float(average_precision_score(fake, probability)) if both else nan,
        "calibration_error": calibration_error(pair, fake.astype(int)),
    }


def auc_by_group(probability: Array, fake: Array, groups: Array) -> dict[str, float]:
    """Computes the AUC of each group of fakes against all real images.

    Args:
      probability: ``[images]``, of being fake.
      fake: bool ``[images]``.
      groups: name of each image's group; those of real images do not matter.

    Returns:
      group -> AUC, sorted by name; NaN without real images.
    """
    fake, groups = np.asarray(fake, bool), np.asarray(groups)
    return {
        str(name): auc(
            probability[~fake | (groups == name)], fake[~fake | (groups == name)]
        )
        for name in np.unique(groups[fake])
    }


def label_f1(predicted: Array, labels: Array) -> Array:
    """Computes the F1 score of each label over the images where it is known.

    Args:
      predicted: bool ``[images, labels]``.
      labels: ``[images, labels]``: 0, 1, or 2 where unknown.

    Returns:
      ``[labels]``, NaN where no image is known to have the label.
    """
    known, on = labels < 2, labels == 1
    hits = (predicted & on).sum(axis=0)
    extra, missed = (predicted & known & ~on).sum(axis=0), (~predicted & on).sum(axis=0)
    total = 2 * hits + extra + missed
    scores = 2 * hits / np.maximum(total, 1)
    return np.where(on.any(axis=0), scores, np.nan)


def prior_f1(labels: Array) -> Array:
    """Computes the best F1 score of each label that needs no look at the images.

    Calling every image positive has precision ``q``, the label's share, and recall 1:
    ``2 q / (1 + q)``. No other guess independent of the image does better.

    Args:
      labels: ``[images, labels]``: 0, 1, or 2 where unknown.

    Returns:
      ``[labels]``, NaN where no image is known to have the label.
    """
    known, on = labels < 2, labels == 1
    share = on.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(on.any(axis=0), 2 * share / (1 + share), np.nan)
