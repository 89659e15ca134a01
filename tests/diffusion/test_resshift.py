"""ResShift's process against laws of Gaussians, its samplers against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.diffusion import resshift


def draws(seed=0, shape=(3, 2, 2, 1)):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(4)]


def test_the_published_schedule():
    s = resshift.schedule(15)
    root = np.asarray(s.sqrt_eta, np.float64)
    np.testing.assert_allclose(root[[0, -1]], [0.02, 0.99], 1e-5)
    logs = np.log(root / 0.02) / np.log(0.99 / 0.02)
    np.testing.assert_allclose(logs, (np.arange(15) / 14) ** 0.3, 1e-4, 1e-6)
    faces = resshift.schedule(4, least=0.2)
    np.testing.assert_allclose(faces.sqrt_eta[0], np.sqrt(0.001), 1e-5)


def test_the_posterior_is_bayes_rule():
    """Both Gaussians are known: the transition's and the marginal's product."""
    s = resshift.schedule(6, kappa=1.5)
    eta = np.asarray(s.sqrt_eta, np.float64) ** 2
    x0, y, x, _ = (np.asarray(a, np.float64) for a in draws())
    for t in range(1, 6):
        alpha = eta[t] - eta[t - 1]
        # x_t | x_{t-1}: mean x_{t-1} + alpha (y - x0), variance kappa^2 alpha
        # x_{t-1} | x0: mean x0 + eta_{t-1} (y - x0), variance kappa^2 eta_{t-1}
        precision = 1 / (1.5**2 * alpha) + 1 / (1.5**2 * eta[t - 1])
        mean = (x - alpha * (y - x0)) / (1.5**2 * alpha)
        mean = (mean + (x0 + eta[t - 1] * (y - x0)) / (1.5**2 * eta[t - 1])) / precision
        found = resshift.posterior(s, jnp.asarray(x), jnp.asarray(x0), t)
        np.testing.assert_allclose(found[0], mean, 1e-3, 1e-5)
        np.testing.assert_allclose(found[1], 1 / precision, 1e-4)
    mean, variance = resshift.posterior(s, jnp.asarray(x), jnp.asarray(x0), 0)
    np.testing.assert_allclose(mean, x0, 1e-6)
    assert variance == 0


def test_noise_is_found_again_and_steps_keep_it():
    s = resshift.schedule(5)
    x0, y, noise, _ = draws(1)
    t = jnp.array([1, 3, 4])  # one step per image
    x = resshift.add_noise(s, x0, y, t, noise)
    np.testing.assert_allclose(
        resshift.implied_noise(s, x, x0, y, t), noise, 1e-3, 1e-4
    )
    back = resshift.deterministic_step(s, x, x0, y, t)
    np.testing.assert_allclose(
        back, resshift.add_noise(s, x0, y, t - 1, noise), 1e-3, 1e-4
    )
    clean = resshift.deterministic_step(s, x, x0, y, jnp.zeros(3, int))
    np.testing.assert_allclose(clean, x0, 1e-4, 1e-5)


def test_inputs_are_scaled_to_unit_variance():
    s = resshift.schedule(4)
    x = resshift.scale_input(s, jnp.ones((2, 1)), jnp.array([0, 3]))
    variance = 4 * np.asarray(s.sqrt_eta)[[0, 3]] ** 2 + 1
    np.testing.assert_allclose(x[:, 0], 1 / np.sqrt(variance), 1e-5)


def test_samplers_end_where_the_denoiser_points():
    s = resshift.schedule(7)
    x0, y, noise, _ = draws(2)

    def denoise(x, t):
        return x0

    for key in (None, jax.random.key(0)):
        found = resshift.sample(denoise, s, y, noise, key=key)
        np.testing.assert_allclose(found, x0, 1e-4, 1e-5)
    np.testing.assert_array_equal(resshift.sample_once(denoise, s, y, noise), x0)


def test_deterministic_sampling_of_a_linear_denoiser():
    """For x0(x, t) = a x + b the steps are a product of numbers."""
    s = resshift.schedule(4, kappa=0.7)
    _, y, noise, _ = (np.asarray(a, np.float64) for a in draws(3))
    root = np.asarray(s.sqrt_eta, np.float64)
    a, b = 0.4, 0.3
    x = y + 0.7 * root[-1] * noise
    once = a * x + b
    for t in (3, 2, 1, 0):
        now, before = root[t], root[t - 1] if t else 0.0
        x0 = a * x + b
        noise_now = (x - x0 - now**2 * (y - x0)) / now
        x = x0 + before**2 * (y - x0) + before * noise_now

    def denoise(x, t):
        return a * x + b

    y, noise = jnp.asarray(y, jnp.float32), jnp.asarray(noise, jnp.float32)
    np.testing.assert_allclose(resshift.sample(denoise, s, y, noise), x, 1e-3, 1e-5)
    np.testing.assert_allclose(
        resshift.sample_once(denoise, s, y, noise), once, 1e-4, 1e-5
    )


def test_ancestral_sampling_of_a_linear_denoiser_has_the_law_of_its_recursion():
    s = resshift.schedule(5, kappa=1.5)
    gain = 0.6
    y = jnp.zeros((20_000, 1))
    noise = jax.random.normal(jax.random.key(1), y.shape)
    found = resshift.sample(lambda x, t: gain * x, s, y, noise, key=jax.random.key(2))
    eta = np.asarray(s.sqrt_eta, np.float64) ** 2
    variance = 1.5**2 * eta[-1]
    for t in (4, 3, 2, 1, 0):
        before = eta[t - 1] if t else 0.0
        kept = before / eta[t]
        variance *= (kept + (1 - kept) * gain) ** 2
        variance += 1.5**2 * kept * (eta[t] - before)
    np.testing.assert_allclose(found.std(), np.sqrt(variance), rtol=0.02)
    assert abs(float(found.mean())) < 0.02


def test_wrong_schedules():
    with pytest.raises(ValueError, match="at least 2 steps"):
        resshift.schedule(1)
