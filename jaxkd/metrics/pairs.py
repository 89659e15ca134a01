"""Metrics of pairs of one or two identities: decisions, intervals, similarities."""

from typing import NamedTuple

import numpy as np

from jaxkd.metrics import verification


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def decisions(probability: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Computes accuracy, precision, recall, F1, AUC and EER over all pairs.

    Positive is one identity, decided where the probability is above one half. Precision
    is 0 where nothing is accepted.

    Args:
      probability: ``[pairs]``, of one identity.
      same: boolean ``[pairs]``.

    Raises:
      ValueError: if shapes do not fit, or pairs of one kind are missing.
    """
    from sklearn.metrics import roc_auc_score

    same = np.asarray(same, bool)
    eer = verification.equal_error_rate(probability, same)
    accepted = np.asarray(probability) > 0.5
    right = float(np.sum(accepted & same))
    precision = right / max(int(np.sum(accepted)), 1)
    recall = right / np.sum(same)
    return {
        "accuracy": float(np.mean(accepted == same)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * right / max(int(np.sum(accepted) + np.sum(same)), 1)),
        "auc": float(roc_auc_score(same, probability)),
        "eer": eer,
    }


def bootstrap_accuracy(
    right: np.ndarray,
    identities: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Bootstraps the accuracy over identities, since pairs share their images.

    Identities are drawn with replacement; a pair counts as often as its identity was
    drawn, one of two identities as often as the product.

    Args:
      right: ``[pairs]``, decisions as 0 or 1, or their mean over seeds; for a paired
        interval, one verifier's minus another's.
      identities: integers ``[pairs, 2]``.
      resamples: how many.
      seed: of the drawing.
      level: of the interval.
    """
    known, places = np.unique(identities, return_inverse=True)
    places = places.reshape(np.shape(identities))
    rng, found = np.random.default_rng(seed), []
    one = places[:, 0] == places[:, 1]
    for _ in range(resamples):
        drawn = rng.integers(len(known), size=len(known))
        times = np.bincount(drawn, minlength=len(known))
        weight = times[places[:, 0]] * np.where(one, 1, times[places[:, 1]])
        if weight.sum():
            found.append(np.average(right, weights=weight))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(float(low), float(high))


def cosine_gap(features: np.ndarray, identities: np.ndarray) -> dict[str, float]:
    """Compares the cosines of one identity's images with those of two.

    Args:
      features: ``[n, dim]``.
      identities: ``[n]``.

    Returns:
      ``intra``, the mean cosine over all pairs of two images of one identity;
      ``inter``, over all pairs of two identities; ``gap``, their difference.
    """
    rows = verification.unit_rows(np.asarray(features, np.float64))
    cosine = rows @ rows.T
    first, second = np.triu_indices(len(rows), k=1)
    same = np.asarray(identities)[first] == np.asarray(identities)[second]
    values = cosine[first, second]
    intra, inter = float(values[same].mean()), float(values[~same].mean())
    return {"intra": intra, "inter": inter, "gap": intra - inter}


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Chooses the threshold that is right for most pairs.

    Args:
      scores: ``[pairs]``, larger for one identity.
      same: boolean ``[pairs]``.
    """
    order = np.argsort(scores, kind="stable")
    values, kinds = np.asarray(scores)[order], np.asarray(same, bool)[order]
    # right[i]: pairs decided rightly if those from place i on are accepted.
    right = np.concatenate([[0], np.cumsum(~kinds)])
    right = right + np.concatenate([np.cumsum(kinds[::-1])[::-1], [0]])
    # Equal scores cannot be told apart.
    allowed = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = int(np.argmax(np.where(allowed, right, -1)))
    padded = np.concatenate([[values[0] - 1], values, [values[-1] + 1]])
    return float((padded[best] + padded[best + 1]) / 2)
