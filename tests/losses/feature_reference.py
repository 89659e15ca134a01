"""Feature and relation losses in float64 NumPy, pair by pair, from the formulas.

Maps are ``[batch, height, width, channels]``. Losses of one example at a time return
``[batch]``, those of a whole batch a number.
"""

from math import ceil, erf, exp, floor, pi, sqrt

import numpy as np


def pool(x, size):
    """Adaptive average pooling of ``[height, width, channels]``, cell by cell."""
    pooled = np.zeros((*size, x.shape[-1]))
    edges = [
        [(floor(i * n / m), ceil((i + 1) * n / m)) for i in range(m)]
        for n, m in zip(x.shape, size, strict=False)
    ]
    for i, (top, bottom) in enumerate(edges[0]):
        for j, (left, right) in enumerate(edges[1]):
            pooled[i, j] = x[top:bottom, left:right].mean(axis=(0, 1))
    return pooled


def _common(a, b):
    size = tuple(min(pair) for pair in zip(a.shape[:2], b.shape[:2], strict=True))
    return pool(a, size), pool(b, size)


def _unit(v):
    size = sqrt((v**2).sum())
    return v / size if size > 0 else v


def _per_example(loss):
    return lambda s, t, *rest: np.array(
        [loss(a, b, *rest) for a, b in zip(s, t, strict=True)]
    )


@_per_example
def hint(s, t):
    return ((s - t) ** 2).mean()


@_per_example
def attention_transfer(s, t):
    maps = [_unit((x**2).mean(axis=-1)) for x in _common(s, t)]
    return ((maps[0] - maps[1]) ** 2).mean()


@_per_example
def neuron_selectivity(s, t):
    channels = [[_unit(c) for c in np.moveaxis(x, -1, 0)] for x in _common(s, t)]

    def mean_kernel(a, b):
        return np.mean([[(c * d).sum() ** 2 for d in b] for c in a])

    s, t = channels
    return mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)


def margin(scale, bias):
    s, m = abs(scale), bias
    negative = (1 + erf(-m / s / sqrt(2))) / 2
    if negative <= 1e-3:
        return -3 * s
    return m - s * exp(-((m / s) ** 2) / 2) / sqrt(2 * pi) / negative


@_per_example
def ofd(s, t, margins):
    total = 0.0
    t = pool(t, s.shape[:2])
    for place in np.ndindex(s.shape):
        a, b, m = s[place], t[place], margins[place[-1]]
        if b > 0 or m < b <= 0 < a - b:
            total += (a - b) ** 2
        elif b <= m < a:
            total += (a - m) ** 2
    return total


@_per_example
def vid(s, t, variance):
    s, t = _common(s, t)
    return 0.5 * ((s - t) ** 2 / variance + np.log(variance)).mean()


@_per_example
def hierarchical_context(s, t):
    height = s.shape[0]
    used = [cells for cells in (4, 2, 1) if cells < height]
    weights = [0.5**i for i in range(len(used) + 1)]
    terms = [((s - t) ** 2).mean()]
    for cells in used:
        size = (cells, cells)
        terms.append(((pool(s, size) - pool(t, size)) ** 2).mean())
    return np.dot(weights, terms) / sum(weights)


def _huber(x):
    return np.where(abs(x) < 1, x**2 / 2, abs(x) - 0.5)


def pkt(s, t):
    probabilities = []
    for x in (s, t):
        x = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-7)
        similarity = (x @ x.T + 1) / 2
        probabilities.append(similarity / similarity.sum(axis=1, keepdims=True))
    q, p = probabilities
    return (p * np.log((p + 1e-7) / (q + 1e-7))).mean()


def _relative_distances(x):
    batch = range(len(x))
    d = np.array([[sqrt(max(((x[i] - x[j]) ** 2).sum(), 1e-12)) for i in batch]
                  for j in batch])  # fmt: skip
    np.fill_diagonal(d, 0)
    return d / d[d > 0].mean()


def rkd_distance(s, t):
    return _huber(_relative_distances(s) - _relative_distances(t)).mean()


def _cosine(x, i, j, k):
    return (_unit(x[j] - x[i]) * _unit(x[k] - x[i])).sum()


def rkd_angle(s, t):
    triples = np.ndindex(len(s), len(s), len(s))
    return np.mean([_huber(_cosine(s, *ijk) - _cosine(t, *ijk)) for ijk in triples])


def similarity_preserving(s, t):
    s, t = (np.array([_unit(row) for row in x @ x.T]) for x in (s, t))
    return ((t - s) ** 2).sum() / len(s) ** 2


def _right_vectors(x, rank):
    """Singular values and right vectors of a map, read row by row in NCHW order."""
    matrix = np.moveaxis(x, -1, 0).reshape(-1, x.shape[1])
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    return _unit(values[:rank]), vectors[:rank]


def kdsvd(students, teachers, rank):
    """Of one example: lists of ``[height, width, channels]``."""
    total, before = 0.0, None
    for s, t in zip(students, teachers, strict=True):
        scale, wanted = _right_vectors(t, rank)
        wanted = [v if v.sum() >= 0 else -v for v in wanted]
        _, offered = _right_vectors(s, rank + 3)
        chosen = []
        for v in wanted:
            cosines = offered @ v
            best = np.argmax(abs(cosines))
            chosen.append(offered[best] * np.sign(cosines[best]))
        now = [np.array(v) * scale[:, None] for v in (chosen, wanted)]
        if before is not None:
            for k in range(rank):
                rbf = [
                    np.exp(-((new[k][:, None] - old[k][None]) ** 2) / 8)
                    for new, old in zip(now, before, strict=True)
                ]
                total += ((rbf[0] - rbf[1]) ** 2).sum()
        before = now
    return total


def crd(embeddings, entries, normalizer, num_examples, temperature):
    chance = (entries.shape[1] - 1) / num_examples
    rows = []
    for v, m in zip(embeddings, entries, strict=True):
        p = np.exp(m @ v / temperature) / normalizer
        positive = p[0] / (p[0] + chance + 1e-7)
        negatives = chance / (p[1:] + chance + 1e-7)
        rows.append(-np.log(positive) - np.log(negatives).sum())
    return np.array(rows)


def gradient(loss, x, step=1e-5):
    """Central differences of a scalar function, one entry at a time."""
    slope = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[place] = step
        slope[place] = (loss(x + shift) - loss(x - shift)) / (2 * step)
    return slope
