"""Closed-form denoisers against posterior means found by other means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxkd.diffusion import densities
from tests.diffusion import solver_reference as reference


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def _covariance(rng, size=4):
    factor = rng.normal(size=(size, size))
    return factor @ factor.T / size + 0.01 * np.eye(size)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
def test_mixture_of_full_covariances(sigma):
    rng = np.random.default_rng(0)
    parts = np.array([1.0, 2.0, 5.0]), rng.normal(size=(3, 4)), None
    parts = (*parts[:2], np.stack([_covariance(rng) for _ in range(3)]))
    x = rng.normal(size=(6, 4)) * (1 + sigma)
    truth = reference.mixture_denoiser(*parts)(x, sigma)
    found = jax.jit(densities.mixture(*parts))(jnp.asarray(x), sigma)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-11)


def test_diagonal_covariances_and_images():
    rng = np.random.default_rng(1)
    means, variances = rng.normal(size=(3, 2, 2, 1)), rng.uniform(0.1, 1, (3, 4))
    full = np.stack([np.diag(v) for v in variances])
    x = jnp.asarray(rng.normal(size=(6, 2, 2, 1)))
    diagonal = densities.mixture(np.ones(3), means, variances)(x, 0.4)
    dense = densities.mixture(np.ones(3), means, full)(x, 0.4)
    np.testing.assert_allclose(diagonal, dense, rtol=0, atol=1e-13)


@pytest.mark.parametrize("bandwidth", [0.0, 0.1])
@pytest.mark.parametrize("sigma", [0.02, 0.3, 30.0])
def test_points_are_a_mixture_of_narrow_gaussians(bandwidth, sigma):
    rng = np.random.default_rng(2)
    data = rng.normal(size=(20, 4))
    x = data[:6] + sigma * rng.normal(size=(6, 4))
    if bandwidth:
        narrow = [bandwidth**2 * np.eye(4)] * 20
        truth = reference.mixture_denoiser(np.ones(20), data, narrow)(x, sigma)
        found = densities.kde(data, bandwidth)(jnp.asarray(x), sigma)
    else:
        logs = -np.sum((x[:, None] - data) ** 2, axis=-1) / (2 * sigma**2)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        truth = weights / weights.sum(axis=1, keepdims=True) @ data
        found = densities.empirical(data)(jnp.asarray(x), sigma)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-10)


def test_each_sample_may_have_its_own_noise():
    rng = np.random.default_rng(3)
    data, x = rng.normal(size=(20, 4)), jnp.asarray(rng.normal(size=(3, 4)))
    sigmas = np.array([0.1, 1.0, 10.0])
    for denoise in (
        densities.kde(data, 0.2),
        densities.mixture(np.ones(20), data, np.full((20, 4), 0.1)),
    ):
        compiled = jax.jit(denoise)
        together = compiled(x, jnp.asarray(sigmas))
        for i, sigma in enumerate(sigmas):
            np.testing.assert_allclose(together[i], compiled(x, sigma)[i], atol=1e-14)
        with pytest.raises(ValueError, match=r"sigma of shape \(2,\)"):
            denoise(x, jnp.asarray(sigmas[:2]))


def test_gaussian_path_solves_the_flow():
    rng = np.random.default_rng(4)
    mean, covariance = rng.normal(size=4), _covariance(rng)
    model = reference.mixture_denoiser([1.0], [mean], [covariance])
    x = 5.0 * rng.normal(size=(3, 4))

    def rate(log_sigma, flat):
        state = flat.reshape(3, 4)
        return (state - model(state, np.exp(log_sigma))).ravel()

    span = np.log([5.0, 0.05])
    ended = solve_ivp(rate, span, x.ravel(), "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    found = densities.gaussian_path(mean, covariance, x, 5.0, 0.05)
    np.testing.assert_allclose(found.ravel(), ended, rtol=0, atol=1e-8)
    denoise = densities.gaussian(mean, covariance)
    np.testing.assert_allclose(denoise(jnp.asarray(x), 0.3), model(x, 0.3), atol=1e-12)


def test_classes_become_components():
    rng = np.random.default_rng(5)
    data, labels = rng.normal(size=(30, 2, 2)), np.arange(30) % 3 * 7
    weights, means, covariances = densities.mixture_of_classes(data, labels, 0.5)
    np.testing.assert_allclose(weights, 1 / 3)
    mine = data[labels == 7]
    np.testing.assert_allclose(means[1], mine.mean(axis=0))
    away = (mine - mine.mean(axis=0)).reshape(10, 4)
    expected = away.T @ away / 9 + 0.5 * np.eye(4)
    np.testing.assert_allclose(covariances[1], expected, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(2), np.zeros((3, 4)), np.ones((3, 4))), r"weights \(2,\)"),
        ((np.ones(3), np.zeros((3, 4)), np.ones((3, 5))), r"covariances \(3, 5\)"),
        ((np.ones(3), np.zeros((3, 4)), -np.ones((3, 4))), "variances down to -1"),
        ((np.zeros(3), np.zeros((3, 4)), np.ones((3, 4))), "weights down to 0"),
    ],
)
def test_impossible_mixtures(arguments, message):
    with pytest.raises(ValueError, match=message):
        densities.mixture(*arguments)
