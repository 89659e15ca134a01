"""HORKD, CRRCD, AIRD, SFTN and GDRD losses from their formulas, in float64 loops."""

import numpy as np

from tests.losses.feature_reference import _unit as unit


def first_order(s, t):
    return np.array(
        [((unit(a) - unit(b)) ** 2).sum() for a, b in zip(s, t, strict=True)]
    )


def darkrank(s, t, alpha=3.0, beta=3.0, neighbours=4):
    rows = []
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        order = sorted(others, key=lambda j: np.linalg.norm(t[i] - t[j]))[:neighbours]
        scores = [-alpha * np.linalg.norm(s[i] - s[j]) ** beta for j in order]
        likelihood = 1.0
        for place in range(neighbours):
            likelihood *= np.exp(scores[place]) / np.exp(scores[place:]).sum()
        rows.append(-np.log(likelihood))
    return np.array(rows)


def correlation_congruence(s, t):
    delta = abs(s - t)
    return np.mean((delta[:-1] * delta[1:]).sum(axis=-1))


def instance_contrast(s, t, labels, temperature=0.1):
    rows = []
    for i in range(len(s)):
        score = [unit(s[i]) @ unit(t[j]) / temperature for j in range(len(s))]
        kept = [j for j in range(len(s)) if j == i or labels[j] != labels[i]]
        rows.append(-np.log(np.exp(score[i]) / sum(np.exp(score[j]) for j in kept)))
    return np.array(rows)


def relation_contrast(s, t, labels=None, temperature=0.1):
    values = []
    for a in range(len(s)):
        for b in range(len(s)):
            if a == b:
                continue
            asked = unit(s[b] - t[a])
            total = 0.0
            for k in range(len(s)):
                same = labels is not None and labels[k] == labels[b]
                if k != a and (k == b or not same):
                    total += np.exp(asked @ unit(t[k] - t[a]) / temperature)
            own = np.exp(asked @ unit(t[b] - t[a]) / temperature)
            values.append(-np.log(own / total))
    return np.mean(values)


def relation_nce(v, anchors, entries, normalizer, num_examples, temperature, where):
    chance = (entries.shape[1] - 1) / num_examples
    rows = []
    for b in range(len(v)):
        values = []
        for a in range(len(anchors)):
            if not where[b, a]:
                continue
            asked = unit(v[b] - anchors[a])
            p = np.array([asked @ unit(m - anchors[a]) for m in entries[b]])
            p = np.exp(p / temperature) / normalizer
            positive = np.log(p[0] / (p[0] + chance + 1e-7))
            values.append(-positive - np.log(chance / (p[1:] + chance + 1e-7)).sum())
        rows.append(np.mean(values))
    return np.array(rows)


def branch_divergence(q, p, temperature=1.0):
    q, p = (np.exp(x / temperature) for x in (q, p))
    q, p = (x / x.sum(axis=-1, keepdims=True) for x in (q, p))
    return temperature**2 * (q * np.log(q / p)).sum(axis=-1)


def relative_error(s, t):
    return ((s - t) ** 2).mean() / (t**2).mean()
