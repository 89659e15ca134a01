"""Preconditioning, noise clocks, guidance and counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.diffusion import denoisers, noise_schedules

X = np.random.default_rng(0).normal(size=(4, 2, 2, 3)) * 3
SIGMAS = np.array([0.03, 0.4, 2.0, 14.0])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def _network(x, condition):
    """Any function in which both arguments matter, sample by sample."""
    return jnp.sin(x) + condition[:, None, None, None] * jnp.cos(2 * x)


def _numpy_network(x, condition):
    return np.sin(x) + condition * np.cos(2 * x)


def _vp_time(s):
    # Bisection of the paper's sigma(t), rather than its closed inverse.
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        value = np.sqrt(np.exp(19.9 * middle**2 / 2 + 0.1 * middle) - 1)
        low, high = (middle, high) if value < s else (low, middle)
    return low


def _table_time(s):
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    levels = np.sqrt(1 / np.cumprod(1 - betas) - 1)
    log_alpha = -0.5 * np.log1p(levels**2)
    wanted = -0.5 * np.log1p(s**2)
    return np.interp(-wanted, -log_alpha, np.arange(1, 1001) / 1000)


def _nearest_iddpm(s):
    """The index of the nearest noise level, from the recursion in the paper."""
    levels, level = [0.0], 0.0
    bar = [np.sin(np.pi / 2 * j / (1000 * 1.008)) ** 2 for j in range(1001)]
    for j in range(1000, 0, -1):
        level = np.sqrt((level**2 + 1) / max(bar[j - 1] / bar[j], 0.001) - 1)
        levels.append(level)
    return np.argmin(np.abs(np.array(levels[::-1]) - s))


# name -> sigma -> (c_skip, c_out, c_in, c_noise), as in the paper's table.
ROWS = {
    "edm": lambda s: (
        0.25 / (s**2 + 0.25),
        0.5 * s / np.sqrt(s**2 + 0.25),
        1 / np.sqrt(s**2 + 0.25),
        np.log(s) / 4,
    ),
    "consistency": lambda s: (*ROWS["edm"](s)[:3], 250 * np.log(s)),
    "vp": lambda s: (1, -s, 1 / np.sqrt(s**2 + 1), 999 * _vp_time(s)),
    "ve": lambda s: (1, s, 1, np.log(s / 2)),
    "iddpm": lambda s: (1, -s, 1 / np.sqrt(s**2 + 1), 999 - _nearest_iddpm(s)),
    "discrete": lambda s: (1, -s, 1 / np.sqrt(s**2 + 1), 1000 * _table_time(s) - 1),
}


@pytest.mark.parametrize("name", list(ROWS))
def test_preconditioning(name):
    denoise = getattr(denoisers, name)(_network)
    compiled = jax.jit(denoise)
    together = denoise(jnp.asarray(X), jnp.asarray(SIGMAS))
    for i, s in enumerate(SIGMAS):
        c_skip, c_out, c_in, c_noise = ROWS[name](s)
        truth = c_skip * X[i] + c_out * _numpy_network(c_in * X[i], c_noise)
        np.testing.assert_allclose(together[i], truth, rtol=0, atol=1e-8)
        alone = compiled(jnp.asarray(X), s)  # A scalar, and compiled.
        np.testing.assert_allclose(alone[i], truth, rtol=0, atol=1e-8)


def test_predicted_variances_are_dropped():
    def wide(x, condition):
        return jnp.concatenate([_network(x, condition), jnp.full_like(x, 1e6)], -1)

    x, sigmas = jnp.asarray(X), jnp.asarray(SIGMAS)
    narrow = denoisers.iddpm(_network)(x, sigmas)
    np.testing.assert_array_equal(denoisers.iddpm(wide)(x, sigmas), narrow)


def test_published_range_of_iddpm():
    levels = noise_schedules.iddpm_sigmas()
    assert levels[1000] == 0
    assert levels[999] == pytest.approx(0.0064, abs=1e-3)
    assert np.all(np.diff(levels) < 0)


@pytest.mark.parametrize(
    "clock", [noise_schedules.LinearBeta(), noise_schedules.stable_diffusion_clock()]
)
def test_clocks_go_there_and_back(clock):
    times = np.linspace(0.002, 1.0, 301)
    np.testing.assert_allclose(clock.time(clock.sigma(times)), times, atol=1e-9)


def _conditional(x, sigma, condition):
    return x / (1 + sigma[:, None, None, None]) + condition[:, None, None, None]


def test_guidance():
    x, labels, none = jnp.asarray(X), jnp.arange(4.0), jnp.zeros(4)
    sizes = []

    def recorded(x, sigma, condition):
        sizes.append(len(x))
        return _conditional(x, sigma, condition)

    guided = denoisers.guided(recorded, labels, none, 7.5)
    plain = X / (1 + SIGMAS[:, None, None, None])
    expected = plain + 7.5 * np.arange(4.0)[:, None, None, None]
    np.testing.assert_allclose(guided(x, jnp.asarray(SIGMAS)), expected, atol=1e-12)
    scalar = guided(x, 1.0)
    steady = X / 2 + 7.5 * np.arange(4.0)[:, None, None, None]
    np.testing.assert_allclose(scalar, steady, atol=1e-12)
    assert sizes == [8, 8]
    # With nothing to guide, one call on the batch as it is.
    for denoise in (
        denoisers.guided(recorded, labels, none, 1.0),
        denoisers.guided(recorded, labels, None, 7.5),
    ):
        once = denoise(x, 1.0)
        np.testing.assert_allclose(
            once, X / 2 + np.arange(4.0)[:, None, None, None], atol=1e-12
        )
    assert sizes == [8, 8, 4, 4]
