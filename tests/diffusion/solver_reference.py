"""The solvers step by step in float64 NumPy, in the form their papers give them.

Each takes ``model(x, sigma) -> x0`` and returns all states. Unlike the library these
keep histories of outputs and form divided differences, interpolants and so on.
"""

import numpy as np


def mixture_denoiser(weights, means, covariances):
    """The mean of x0 given x, by solving with each component's covariance."""

    def denoise(x, sigma):
        logs, clean = [], []
        for weight, mean, covariance in zip(weights, means, covariances, strict=True):
            noisy = covariance + sigma**2 * np.eye(len(mean))
            solved = np.linalg.solve(noisy, (x - mean).T).T
            distance = np.sum((x - mean) * solved, axis=1)
            logs.append(np.log(weight) - 0.5 * (distance + np.linalg.slogdet(noisy)[1]))
            clean.append(mean + solved @ covariance)
        logs = np.array(logs)
        share = np.exp(logs - logs.max(axis=0))
        share /= share.sum(axis=0)
        return np.einsum("kb,kbd->bd", share, np.array(clean))

    return denoise


def _slope(model, x, t):
    return (x - model(x, t)) / t


def _first_slope(model, x, t, afs):
    return x / np.sqrt(1 + t**2) if afs else _slope(model, x, t)


def two_stage(model, x, t, kind, afs=False):
    states = [x]
    for i in range(len(t) - 1):
        s, u = t[i], t[i + 1]
        e = _first_slope(model, x, s, afs and i == 0)
        if kind == "euler":
            x = x + (u - s) * e
        elif kind == "heun":
            trial = x + (u - s) * e
            x = x + (u - s) * (e + _slope(model, trial, u)) / 2
        else:
            r = 0.5
            middle = u**r * s ** (1 - r)
            other = _slope(model, x + (middle - s) * e, middle)
            x = x + (u - s) * (other / (2 * r) + (1 - 1 / (2 * r)) * e)
        states.append(x)
    return np.array(states)


def multistep(model, x, t, step, afs=False):
    """``step(t, i, slopes) -> increment`` with slopes the latest first."""
    states, slopes = [x], []
    for i in range(len(t) - 1):
        slopes.insert(0, _first_slope(model, x, t[i], afs and i == 0))
        x = x + step(t, i, slopes)
        states.append(x)
    return np.array(states)


def ipndm_step(order):
    def step(t, i, e):
        h = t[i + 1] - t[i]
        match min(order, i + 1):
            case 1:
                return h * e[0]
            case 2:
                return h * (3 * e[0] - e[1]) / 2
            case 3:
                return h * (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
            case _:
                return h * (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24

    return step


def ab_step(order):
    """Fits a polynomial to the slopes and integrates it with ``np.polyint``."""

    def step(t, i, e):
        used = min(order, i + 1)
        h = t[i + 1] - t[i]
        # In units of the step, for a well-conditioned fit.
        nodes = (t[i + 1 - used : i + 1][::-1] - t[i]) / h
        powers = nodes[:, None] ** np.arange(used)
        values = np.array(e[:used])
        coefficients = np.linalg.solve(powers, values.reshape(used, -1))
        integrals = 1 / np.arange(1, used + 1)
        return h * (integrals @ coefficients).reshape(values.shape[1:])

    return step


def deis_step(order, sigma_min=0.002, sigma_max=80.0, eps=1e-3):
    low, high = np.log1p(sigma_min**2), np.log1p(sigma_max**2)
    beta_d = 2 * (low / eps - high) / (eps - 1)
    beta_min = high - beta_d / 2

    def tau(sigma):
        root = np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(sigma**2))
        return (root - beta_min) / beta_d

    def rate(time):
        alpha = np.exp(-0.5 * beta_d * time**2 - beta_min * time)
        return 0.5 * (beta_d * time + beta_min) / np.sqrt(alpha * (1 - alpha))

    def step(t, i, e):
        used = min(order, i + 1)
        if used == 1:
            return (t[i + 1] - t[i]) * e[0]
        past = tau(t[i + 1 - used : i + 1][::-1])
        start, end = tau(t[i]), tau(t[i + 1])
        # Simpson's rule on 2000 pieces, another one than the library's.
        time = np.linspace(start, end, 4001)
        simpson = np.ones(4001)
        simpson[1:-1:2], simpson[2:-1:2] = 4, 2
        simpson *= (end - start) / (3 * 4000)
        total = 0
        for j in range(used):
            basis = np.ones_like(time)
            for k in range(used):
                if k != j:
                    basis = basis * (time - past[k]) / (past[j] - past[k])
            total = total + np.sum(simpson * basis * rate(time)) * e[j]
        return total

    return step


def official_variable_step(order):
    def step(t, i, e):
        used = min(order, i + 1)
        h = t[i + 1] - t[i]
        h1, h2, h3 = (t[i - k] - t[i - k - 1] if i > k else np.nan for k in range(3))
        if used == 1:
            return h * e[0]
        if used == 2:
            return h * ((1 + h / (2 * h1)) * e[0] - h / (2 * h1) * e[1])
        q = 0.5 * (1 - h / (3 * (h + h1)) * h * (h + h1) / (h1 * (h1 + h2)))
        p = 0.0
        if used == 4:
            p = (
                (
                    0.5 * (1 - h / (3 * (h + h1)))
                    + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
                )
                * (h * (h + h1) * (h + h1 + h2))
                / (h1 * (h1 + h2) * (h1 + h2 + h3))
            )
        g = h1 * (h1 + h2) / (h2 * (h2 + h3)) if used == 4 else 0.0
        tail = g * (1 + h2 / h3) if used == 4 else 0.0
        total = (1 + h / (2 * h1) + q + p) * e[0]
        total = (
            total + (-h / (2 * h1) - (1 + h1 / h2) * q - (1 + h1 / h2 + g) * p) * e[1]
        )
        total = total + (q * h1 / h2 + (h1 / h2 + tail) * p) * e[2]
        if used == 4:
            total = total - p * g * h1 / h2 * e[3]
        return h * total

    return step


def threshold(clean):
    limit = np.maximum(np.quantile(np.abs(clean), 0.995, axis=1, keepdims=True), 1)
    return np.clip(clean, -limit, limit) / limit


def _output(x, t, denoised, predict, thresholding):
    if predict == "eps":
        return (x - denoised) / t
    return threshold(denoised) if thresholding else denoised


def _first_denoised(model, x, t, afs):
    return x - t * x / np.sqrt(1 + t**2) if afs else model(x, t)


def dpmpp(model, x, t, order, predict, lower=True, thresholding=False, afs=False):
    lam, states, m = -np.log(t), [x], []
    for i in range(len(t) - 1):
        s, u = t[i], t[i + 1]
        denoised = _first_denoised(model, x, s, afs and i == 0)
        m.append(_output(x, s, denoised, predict, thresholding))
        used = min(i + 1, order, len(t) - 1 - i if lower else order)
        length = lam[i + 1] - lam[i]
        phi1 = np.expm1(-length if predict == "x0" else length)
        phi2 = phi1 / length + (1 if predict == "x0" else -1)
        phi3 = phi2 / length - 0.5
        if used >= 2:
            a = (m[i] - m[i - 1]) / ((lam[i] - lam[i - 1]) / length)
        if used == 3:
            r0, r1 = (lam[i] - lam[i - 1]) / length, (lam[i - 1] - lam[i - 2]) / length
            b = (m[i - 1] - m[i - 2]) / r1
            d1, d2 = a + r0 / (r0 + r1) * (a - b), (a - b) / (r0 + r1)
        if predict == "x0":
            x = u / s * x - phi1 * m[i]
            if used == 2:
                x = x - 0.5 * phi1 * a
            if used == 3:
                x = x + phi2 * d1 - phi3 * d2
        else:
            x = x - u * phi1 * m[i]
            if used == 2:
                x = x - 0.5 * u * phi1 * a
            if used == 3:
                x = x - u * phi2 * d1 - u * phi3 * d2
        states.append(x)
    return np.array(states)


def unipc(model, x, t, order, predict, variant, lower=True, thresholding=False):
    lam, states, steps = -np.log(t), [x], len(t) - 1
    m = [_output(x, t[0], model(x, t[0]), predict, thresholding)]
    for i in range(steps):
        s, u = t[i], t[i + 1]
        used = min(i + 1, order, steps - i if lower else order)
        length = lam[i + 1] - lam[i]
        h = -length if predict == "x0" else length
        bound = h if variant == "bh1" else np.expm1(h)
        r = [(lam[i - k] - lam[i]) / length for k in range(1, used)] + [1.0]
        d = [(m[i - k] - m[i]) / r[k - 1] for k in range(1, used)]
        g, f, b = np.expm1(h) / h - 1, 1.0, []
        for k in range(1, used + 1):
            b.append(g * f / bound)
            f *= k + 1
            g = g / h - 1 / f
        matrix = np.array([[rj**k for rj in r] for k in range(used)])
        b = np.array(b)
        if used == 1:
            predictor, corrector = [], np.array([0.5])
        else:
            predictor = [0.5] if used == 2 else np.linalg.solve(matrix[:2, :2], b[:2])
            corrector = np.linalg.solve(matrix, b)
        scale = 1.0 if predict == "x0" else u
        base = u / s * x if predict == "x0" else x
        base = base - scale * np.expm1(h) * m[i]
        guess = base - scale * bound * sum(
            w * dk for w, dk in zip(predictor, d, strict=True)
        )
        if i == steps - 1:
            x = guess
        else:
            m.append(_output(guess, u, model(guess, u), predict, thresholding))
            total = sum(w * dk for w, dk in zip(corrector[:-1], d, strict=True))
            x = base - scale * bound * (total + corrector[-1] * (m[-1] - m[-2]))
        states.append(x)
    return np.array(states)
