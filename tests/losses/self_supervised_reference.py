"""Self-supervised losses in float64 NumPy, row by row, from the papers' formulas."""

import numpy as np


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def nt_xent(z0, z1, temperature):
    z, n = np.concatenate([z0, z1]), len(z0)
    total = 0.0
    for i in range(2 * n):
        scores = {
            k: np.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * n) if k != i
        }
        total -= np.log(scores[(i + n) % (2 * n)] / sum(scores.values()))
    return total / (2 * n)


def moco(query, key, queue, temperature):
    result = []
    for q, k in zip(query, key, strict=True):
        positive = np.exp(cosine(q, k) / temperature)
        others = sum(np.exp(cosine(q, m) / temperature) for m in queue)
        result.append(-np.log(positive / (positive + others)))
    return np.array(result)


def negative_cosine(p, z):
    return np.array([-cosine(a, b) for a, b in zip(p, z, strict=True)])


def fast_siam(p, z):
    views = range(len(p))
    terms = []
    for i in views:
        mean = np.mean([z[j] for j in views if j != i], axis=0)
        terms.append(negative_cosine(p[i], mean))
    return np.mean(terms, axis=0)


def dino(student, teacher, centre, student_temperature, teacher_temperature):
    result = []
    for b in range(student.shape[1]):
        terms = []
        for t in range(len(teacher)):
            for s in range(len(student)):
                if s != t:
                    q = softmax((teacher[t, b] - centre) / teacher_temperature)
                    p = softmax(student[s, b] / student_temperature)
                    terms.append(-np.sum(q * np.log(p)))
        result.append(np.mean(terms))
    return np.array(result)


def barlow_twins(z0, z1, weight):
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z0, z1))
    count, dim = a.shape
    total = 0.0
    for i in range(dim):
        for j in range(dim):
            c = sum(a[n, i] * b[n, j] for n in range(count)) / count
            total += (c - 1) ** 2 if i == j else weight * c**2
    return total


def vicreg(z0, z1, invariance, variance, covariance):
    result = invariance * np.mean((z0 - z1) ** 2)
    for z in (z0, z1):
        c = np.cov(z.T)
        std = np.sqrt(z.var(0, ddof=1) + 1e-4)
        result += 0.5 * variance * np.mean(np.maximum(0, 1 - std))
        result += covariance * (np.sum(c**2) - np.sum(np.diag(c) ** 2)) / len(c)
    return result


def gaussian_kl(mean, log_variance):
    """By the integral of each latent's density, on a fine grid."""
    x = np.linspace(-30, 30, 200_001)
    total = np.zeros(len(mean))
    for b in range(len(mean)):
        for m, lv in zip(mean[b].ravel(), log_variance[b].ravel(), strict=True):
            log_q = -0.5 * ((x - m) ** 2 / np.exp(lv) + lv + np.log(2 * np.pi))
            log_p = -0.5 * (x**2 + np.log(2 * np.pi))
            total[b] += np.sum(np.exp(log_q) * (log_q - log_p)) * (x[1] - x[0])
    return total


def gradient(loss, x, step=1e-5):
    """Central differences of a scalar function, entry by entry."""
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        result[index] = (loss(x + shift) - loss(x - shift)) / (2 * step)
    return result
