"""The logit losses in float64 NumPy, row by row, straight from the papers' formulas.

Probabilities are kept as logarithms so that the reference itself is exact at extreme
logits. Every function takes ``[rows, classes]`` and returns ``[rows]``.
"""

import numpy as np


def log_softmax(z):
    return z - np.logaddexp.reduce(z)


def kl(log_p, log_q):
    terms = [np.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True) if a > -700]
    return sum(terms, 0.0)


def _log_split(z, c):
    log_p = log_softmax(z)
    return [log_p[c], np.logaddexp.reduce(np.delete(log_p, c))]


def kd(s, t, temperature):
    rows = [
        kl(log_softmax(b / temperature), log_softmax(a / temperature))
        for a, b in zip(s, t, strict=True)
    ]
    return temperature**2 * np.array(rows)


def tckd(s, t, y, temperature):
    rows = [
        kl(_log_split(b / temperature, c), _log_split(a / temperature, c))
        for a, b, c in zip(s, t, y, strict=True)
    ]
    return temperature**2 * np.array(rows)


def scd(s, t, y, temperature):
    rows = [
        kl(_log_split(b / temperature, np.argmax(b)), _log_split(a / temperature, c))
        for a, b, c in zip(s, t, y, strict=True)
    ]
    return temperature**2 * np.array(rows)


def unmasked(t, label, mask):
    """The classes of one row that take part in the correlation term."""
    classes = range(len(t))
    if mask == "ge":
        return [c for c in classes if not t[c] >= t[label]]
    if mask == "g":
        return [c for c in classes if not t[c] > t[label]]
    return [c for c in classes if c != label]


def mcd(s, t, y, temperature, mask):
    rows = []
    for a, b, c in zip(s, t, y, strict=True):
        left = unmasked(b, c, mask)
        if left:
            log_p, log_q = (log_softmax(z[left] / temperature) for z in (b, a))
        rows.append(kl(log_p, log_q) if left else 0.0)
    return temperature**2 * np.array(rows)


def dkd(s, t, y, alpha, beta, temperature):
    non_target = mcd(s, t, y, temperature, "gt_only")
    return alpha * tckd(s, t, y, temperature) + beta * non_target


def rld(s, t, y, alpha, beta, temperature, alpha_temperature, mask):
    confidence = scd(s, t, y, alpha_temperature)
    return alpha * confidence + beta * mcd(s, t, y, temperature, mask)


def standardize(z):
    mean = z.mean(axis=1, keepdims=True)
    return (z - mean) / (1e-7 + z.std(axis=1, ddof=1, keepdims=True))


def swap(t, y):
    swapped = np.array(t)
    for row, label in zip(swapped, y, strict=True):
        top = np.argmax(row)
        row[top], row[label] = row[label], row[top]
    return swapped


def self_correction(s, y, temperature, source=None):
    """``source`` are the logits the target is made of, which has no gradient."""
    target = np.array(s if source is None else source)
    for row, label in zip(target, y, strict=True):
        row[label] = row[label] + row.max()
    return kd(s, target, temperature)


def revised(t, y, eta):
    rows = []
    for row, label in zip(t, y, strict=True):
        p = np.exp(log_softmax(row))
        share = eta / (p.max() - p[label] + 1)
        rows.append(share * p + (1 - share) * (np.arange(len(p)) == label))
    return np.array(rows)


def label_revision(s, t, y, eta, match_weight):
    """One number for the batch, by indexing the two parts out of it."""
    right = t.argmax(axis=1) == y
    loss = 0.0
    if right.any():
        log_q = np.array([log_softmax(row) for row in s[right]])
        loss += -log_q[np.arange(len(log_q)), y[right]].mean()
        loss += match_weight * ((s[right] - t[right]) ** 2).mean()
    if (~right).any():
        q = np.exp([log_softmax(row) for row in s[~right]])
        loss += ((q - revised(t[~right], y[~right], eta)) ** 2).mean()
    return loss


def row_gradients(loss, s, step=1e-4):
    """Central differences of a row-wise loss, one class of all rows at a time."""
    columns = []
    for c in range(s.shape[1]):
        shift = step * (np.arange(s.shape[1]) == c)
        columns.append((loss(s + shift) - loss(s - shift)) / (2 * step))
    return np.stack(columns, axis=1)
