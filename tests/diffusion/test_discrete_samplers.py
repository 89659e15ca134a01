"""DDIM, LCM, DDCM and LMS beside closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.diffusion import (
    consistency,
    ddcm,
    ddim,
    denoisers,
    lms,
    noise_schedules,
    noise_tables,
    sample,
    schedules,
)

MEAN, STD = 0.7, 0.4  # of the Gaussian data whose noise is known exactly


def exact_noise(alphas):
    """E[noise | x] for Gaussian data, at a timestep that may be fractional."""

    def predict(x, timestep):
        alpha = jnp.interp(timestep, jnp.arange(len(alphas)), alphas)
        variance = alpha * STD**2 + 1 - alpha
        return jnp.sqrt(1 - alpha) * (x - jnp.sqrt(alpha) * MEAN) / variance

    return predict


def exact_end(x, alpha, alpha_end):
    """Where the probability flow of Gaussian data carries x."""
    spread = [np.sqrt(a * STD**2 + 1 - a) for a in (alpha, alpha_end)]
    scaled = (x - np.sqrt(alpha) * MEAN) / spread[0]
    return np.sqrt(alpha_end) * MEAN + spread[1] * scaled


def test_alphas_and_timesteps_of_published_schedulers():
    alphas = noise_tables.alphas_cumprod()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(alphas, np.cumprod(1 - betas), rtol=2e-5)
    assert ddim.table(50).timestep[[0, -1]].tolist() == [981, 1]
    five = ddim.table(5)
    assert five.timestep.tolist() == [801, 601, 401, 201, 1]
    np.testing.assert_array_equal(five.alpha_next[:-1], five.alpha[1:])
    assert five.alpha_next[-1] == alphas[0]
    times = {n: consistency.table(n).timestep.tolist() for n in (4, 8, 15)}
    assert times[4] == [999, 759, 499, 259]
    assert times[8] == [999, 879, 759, 639, 499, 379, 259, 139]
    fifteen = [999, 939, 879, 799, 739, 679, 599, 539, 479, 399, 339, 279, 199, 139, 79]
    assert times[15] == fifteen
    last = consistency.table(4)
    assert last.alpha_next[-1] == last.alpha[-1]


def test_ddim_follows_the_exact_flow_and_back():
    table = ddim.table(200)
    predict = exact_noise(noise_tables.alphas_cumprod())
    x = jax.random.normal(jax.random.key(0), (64, 1))
    end = jax.jit(lambda x: ddim.sample(predict, x, table))(x)
    np.testing.assert_allclose(
        end, exact_end(x, table.alpha[0], table.alpha_next[-1]), atol=0.02
    )
    back = jax.jit(lambda x: ddim.sample(predict, x, ddim.inverse(table)))(end)
    np.testing.assert_allclose(back, x, atol=0.06)


def test_ddim_step_by_hand():
    x, eps, noise = np.array([[0.3]]), np.array([[-0.2]]), np.array([[1.5]])
    a, b, eta = 0.4, 0.7, 0.5
    got, clean = ddim.step(x, eps, a, b, eta=eta, noise=noise)
    x0 = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
    s = eta * np.sqrt((1 - b) / (1 - a) * (1 - a / b))
    expected = np.sqrt(b) * x0 + np.sqrt(1 - b - s**2) * eps + s * noise
    np.testing.assert_allclose(clean, x0, rtol=1e-6)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="expected the noise"):
        ddim.step(x, eps, a, b, eta=1.0)


def test_scan_equals_a_loop():
    predict = exact_noise(noise_tables.alphas_cumprod())
    x, key = jax.random.normal(jax.random.key(1), (3, 2)), jax.random.key(2)
    table = ddim.table(6)
    scanned = ddim.sample(predict, x, table, eta=0.7, key=key)
    y = x
    for i in range(6):
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
        eps = predict(y, table.timestep[i])
        y, _ = ddim.step(
            y, eps, table.alpha[i], table.alpha_next[i], eta=0.7, noise=noise
        )
    np.testing.assert_allclose(scanned, y, atol=1e-5)


def test_lcm_by_hand():
    table, key = consistency.table(3), jax.random.key(0)
    predict = exact_noise(noise_tables.alphas_cumprod())
    x = jax.random.normal(jax.random.key(3), (4, 2))
    got = consistency.sample(predict, x, table, key)
    y = x
    for i, t in enumerate(table.timestep):
        a, b = float(table.alpha[i]), float(table.alpha_next[i])
        skip = 0.25 / ((10 * t) ** 2 + 0.25)
        out = 10 * t / np.sqrt((10 * t) ** 2 + 0.25)
        clean = (y - np.sqrt(1 - a) * predict(y, t)) / np.sqrt(a)
        denoised = out * clean + skip * y
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
        y = np.sqrt(b) * denoised + np.sqrt(1 - b) * noise
    np.testing.assert_allclose(got, denoised, atol=1e-4)
    # The model is the identity at time 0.
    skip, out = consistency.boundary(0)
    assert (float(skip), float(out)) == (1.0, 0.0)


def test_ddcm_equals_the_papers_form():
    rng = np.random.default_rng(0)
    xs, xt, es, et, x0, n = rng.normal(size=(6, 2, 3))
    a, b, eta = 0.3, 0.6, 0.4
    source, target, clean = ddcm.step(xs, xt, es, et, x0, n, a, b, eta=eta)
    ec = (xs - np.sqrt(a) * x0) / np.sqrt(1 - a)
    expected = (xt - np.sqrt(1 - a) * (et - es + ec)) / np.sqrt(a)
    np.testing.assert_allclose(clean, expected, atol=1e-5)
    s2 = eta * (1 - b)
    shared = np.sqrt(1 - b - s2) * (et - es + ec) + np.sqrt(s2) * n
    np.testing.assert_allclose(target, np.sqrt(b) * expected + shared, atol=1e-5)
    np.testing.assert_allclose(source, np.sqrt(b) * x0 + shared, atol=1e-5)


def test_ddcm_of_equal_predictions_is_the_source_exactly():
    key = jax.random.split(jax.random.key(0), 4)
    x, e, x0, n = (jax.random.normal(k, (2, 5)) for k in key)
    source, target, clean = jax.jit(ddcm.step)(x, x, e, e, x0, n, 0.2, 0.5, eta=1.0)
    np.testing.assert_array_equal(clean, x0)
    np.testing.assert_array_equal(source, target)


def test_lms_weights_integrate_polynomials_exactly():
    sigmas = np.array([9.0, 7.0, 4.5, 3.0, 1.0, 0.0])
    weights = lms.coefficients(sigmas, 3)
    for power in range(3):
        for i in range(2, 5):
            values = sigmas[[i, i - 1, i - 2]] ** power
            integral = (sigmas[i + 1] ** (power + 1) - sigmas[i] ** (power + 1)) / (
                power + 1
            )
            np.testing.assert_allclose(weights[i] @ values, integral, atol=1e-9)
    np.testing.assert_allclose(lms.coefficients(sigmas, 1)[:, 0], np.diff(sigmas))


def test_lms_beats_its_first_order_on_the_exact_flow():
    predict = exact_noise(noise_tables.alphas_cumprod())
    x = jax.random.normal(jax.random.key(4), (64, 1))
    errors = {}
    for order in (1, 4):
        table = lms.table(12, order=order)
        end, _ = lms.sample(predict, x, table)
        errors[order] = np.abs(end - exact_end(x, table.alpha[0], 1.0)).mean()
    assert errors[4] < 0.5 * errors[1]
    assert lms.table(10, last=5).timestep[0] == pytest.approx(444.0)


def test_guidance_extrapolates():
    def predict(x, timestep, context):
        return x * context[:, 0]

    guided = ddim.guided(predict, jnp.array([[[3.0]]]), jnp.array([[[1.0]]]), 2.0)
    np.testing.assert_allclose(guided(jnp.array([[2.0]]), 0), [[2 * (1 + 2 * 2)]])


def test_schedules_of_search_work_on_discrete_networks():
    """A GITS-type schedule and solver on the discrete denoiser of this backbone."""
    clock = noise_schedules.stable_diffusion_clock()
    predict = exact_noise(np.exp(2 * clock.log_alpha))
    denoise = denoisers.discrete(lambda x, t: predict(x, t[:, None]), clock)
    sigmas = schedules.polynomial(12, float(clock.sigma(1e-3)), float(clock.sigma(1.0)))
    z = jax.random.normal(jax.random.key(5), (64, 1))
    run = sample(denoise, sigmas[0] * z, sigmas, solver="ipndm")
    # In the scaled state the data's deviation is the limit of the spread.
    spread = [np.sqrt(STD**2 + s**2) for s in (sigmas[0], sigmas[-1])]
    expected = MEAN + spread[1] * (sigmas[0] * z - MEAN) / spread[0]
    np.testing.assert_allclose(run.x[-1], expected, atol=0.05)


def test_a_step_for_every_timestep():
    table, alphas = ddim.table(1000), noise_tables.alphas_cumprod()
    np.testing.assert_array_equal(table.timestep, np.arange(1000)[::-1])
    np.testing.assert_array_equal(table.alpha, alphas[::-1])
    # Each step begins where the one before it has ended.
    np.testing.assert_array_equal(table.alpha_next[:-1], table.alpha[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ddim.table(0), "0 steps"),
        (lambda: ddim.table(1001), "1001 steps"),
        (lambda: consistency.table(51), "expected 1 to 50"),
        (lambda: ddim.part(ddim.table(5), 0.1), "leaves none"),
        (lambda: ddim.part(ddim.table(5), 1.5), "at most 1"),
        (lambda: ddim.part(ddim.table(5), float("nan")), "at most 1"),
        (lambda: lms.table(5, order=0), "order 0"),
    ],
)
def test_impossible_tables(make, message):
    with pytest.raises(ValueError, match=message):
        make()
