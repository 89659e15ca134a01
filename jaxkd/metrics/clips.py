"""Scores of detectors of forgeries: one score for each clip, higher for fakes.

``FAR`` is the fraction of real clips taken for fakes, ``FRR`` that of fakes taken for
real ones. Where only one class is there, what needs both is NaN.
"""

import numpy as np

from jaxkd.metrics.classification import auc

OFFICIAL = (
    "accuracy",
    "f1",
    "balanced",
    "real_recall",
    "fake_recall",
    "auc",
    "eer",
    "hter",
)


def official(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes the protocol of CMDFD's published code.

    Predictions are the larger logit; the score is the *raw* logit of "fake", neither
    the difference nor the softmax.

    Args:
      logits: ``[clips, 2]``, means over frames: real, fake.
      labels: ``[clips]``, 1 for fake.

    Returns:
      ``OFFICIAL`` -> value; F1 is that of fakes.
    """
    labels = np.asarray(labels).astype(bool)
    predicted = np.asarray(logits).argmax(1).astype(bool)
    true, false = np.sum(predicted & labels), np.sum(predicted & ~labels)
    missed = np.sum(~predicted & labels)
    real = _ratio(np.sum(~predicted & ~labels), np.sum(~labels))
    fake = _ratio(true, np.sum(labels))
    scores = np.asarray(logits)[:, 1]
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "f1": _ratio(2 * true, 2 * true + false + missed),
        "balanced": (real + fake) / 2,
        "real_recall": real,
        "fake_recall": fake,
        "auc": auc(scores, labels),
        "eer": equal_error_rate(scores, labels),
        "hter": (1 - real + 1 - fake) / 2,
    }


def equal_error_rate(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns FAR at the threshold where FAR and FRR are nearest, not interpolated.

    Args:
      scores: ``[clips]``.
      labels: ``[clips]``, 1 for fake.
    """
    from sklearn.metrics import roc_curve

    labels = np.asarray(labels).astype(bool)
    if labels.all() or not labels.any():
        return float("nan")
    far, caught, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(far[np.nanargmin(np.abs(1 - caught - far))])


def threshold(real_scores: np.ndarray, far: float) -> float:
    """Returns the lowest threshold that at most ``far`` of real clips exceed.

    A detector's threshold does not transfer between sets; this one is calibrated on
    held-out real clips alone.

    Args:
      real_scores: ``[clips]``, of real clips.
      far: the fraction of false alarms that is accepted, in [0, 1].

    Returns:
      One of the scores; NaN if there are none.
    """
    ordered = np.sort(np.asarray(real_scores, np.float64))
    if not len(ordered):
        return float("nan")
    # 0.29 * 100 is a little less than 29.
    allowed = int(np.floor(far * len(ordered) + 1e-9))
    return float(ordered[max(len(ordered) - 1 - allowed, 0)])


def _ratio(part, whole) -> float:
    return float(part / whole) if whole else float("nan")
