"""Metrics of pairs against scikit-learn, loops and known distributions."""

import numpy as np
from sklearn import metrics

from jaxkd.metrics import pairs

rng = np.random.default_rng(0)


def test_decisions_are_scikit_learns():
    same = rng.uniform(size=300) < 0.4
    probability = np.clip(0.3 * same + rng.uniform(0, 0.8, 300), 0, 1)
    found = pairs.decisions(probability, same)
    decided = probability > 0.5
    exact = {
        "accuracy": metrics.accuracy_score(same, decided),
        "precision": metrics.precision_score(same, decided),
        "recall": metrics.recall_score(same, decided),
        "f1": metrics.f1_score(same, decided),
        "auc": metrics.roc_auc_score(same, probability),
    }
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], value, 1e-9)
    nothing = pairs.decisions(np.zeros(300), same)
    assert nothing["precision"] == nothing["f1"] == 0


def test_intervals_are_wider_than_pairs_suggest():
    """Pairs of one writer stand and fall together: 20 writers, not 2000 pairs."""
    writers = np.repeat(np.arange(20), 100)
    right = np.repeat(rng.uniform(size=20) < 0.7, 100)
    low, high = pairs.bootstrap_accuracy(right, np.stack([writers, writers], 1))
    exact = np.sqrt(right.mean() * (1 - right.mean()) / 20)
    assert abs((high - low) / (2 * 1.96 * exact) - 1) < 0.2
    assert low < right.mean() < high
    all_right = pairs.bootstrap_accuracy(
        np.ones(4, bool), np.array([[0, 1], [1, 2], [0, 0], [2, 2]]), resamples=50
    )
    assert all_right == (1, 1)


def test_cosines_within_and_between():
    rows, owners = rng.normal(size=(6, 3)), np.array([0, 0, 0, 1, 1, 2])
    kinds = {True: [], False: []}
    for i in range(6):
        for j in range(i):
            a, b = rows[i], rows[j]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            kinds[bool(owners[i] == owners[j])].append(cosine)
    found = pairs.cosine_gap(rows, owners)
    np.testing.assert_allclose(found["intra"], np.mean(kinds[True]))
    np.testing.assert_allclose(found["inter"], np.mean(kinds[False]))
    np.testing.assert_allclose(found["gap"], found["intra"] - found["inter"])


def test_the_best_threshold_by_trying_all():
    for seed in range(5):
        draw = np.random.default_rng(seed)
        scores, same = (
            draw.integers(0, 6, 30).astype(float),
            draw.uniform(size=30) > 0.5,
        )
        threshold = pairs.best_threshold(scores, same)
        reached = np.mean((scores > threshold) == same)
        tried = [np.mean((scores > t) == same) for t in np.arange(-0.5, 7)]
        assert reached == max(tried)
