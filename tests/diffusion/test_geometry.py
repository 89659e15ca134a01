"""Geometry against curves whose curvature is known, and published facts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxkd.diffusion import densities, frechet, geometry, samplers, schedules

ANGLES = np.linspace(0, 2 * np.pi, 401)


def _curve(*parts, size=None):
    """Returns ``[num_sigmas, 1, d]``, turned into ``size`` dimensions where given."""
    x = np.stack(np.broadcast_arrays(*parts), axis=-1)[:, None]
    if size is None:
        return x
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(size, size)))[0][: x.shape[-1]]
    return x @ turned + rng.normal(size=size)


def test_circle():
    x = _curve(2 * np.cos(ANGLES), 2 * np.sin(ANGLES), size=7)
    bends = geometry.frenet(x, window=21)
    np.testing.assert_allclose(bends.curvature, 0.5, rtol=1e-2)
    np.testing.assert_allclose(bends.curvature[10:-10], 0.5, rtol=3e-3)
    np.testing.assert_allclose(bends.torsion, 0.0, atol=1e-6)
    np.testing.assert_allclose(geometry.arc_length(x)[-1], 4 * np.pi, rtol=1e-4)
    half = geometry.deviation(x[:201])
    np.testing.assert_allclose(half.max(), 2.0, rtol=1e-9)
    np.testing.assert_allclose(half[[0, -1]], 0.0, atol=1e-12)
    np.testing.assert_allclose(geometry.explained_variance(x, 2).sum(), 1.0)


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_helix(turn):
    radius, rise = 3.0, 1.5
    parts = radius * np.cos(ANGLES), radius * np.sin(turn * ANGLES), rise * ANGLES
    square = radius**2 + rise**2
    flat = geometry.frenet(_curve(*parts), window=21)
    inner = slice(10, -10)  # One-sided windows know the derivatives less well.
    np.testing.assert_allclose(flat.curvature, radius / square, rtol=1e-2)
    np.testing.assert_allclose(flat.curvature[inner], radius / square, rtol=2e-3)
    fine = geometry.frenet(_curve(*parts), window=7).curvature[inner]
    np.testing.assert_allclose(fine, radius / square, rtol=3e-4)
    np.testing.assert_allclose(flat.torsion[inner], turn * rise / square, rtol=2e-3)
    turned = geometry.frenet(_curve(*parts, size=9), window=21)
    np.testing.assert_allclose(turned.curvature, flat.curvature, rtol=1e-9)
    np.testing.assert_allclose(turned.torsion, np.abs(flat.torsion), rtol=1e-6)


def test_cubic_in_a_plane_has_no_torsion_in_space():
    t = np.linspace(-1, 1, 301)
    bends = geometry.frenet(_curve(t, t**3 / 3, 0 * t), window=11)
    expected = np.abs(2 * t) / (1 + t**4) ** 1.5
    np.testing.assert_allclose(bends.curvature[20:-20, 0], expected[20:-20], atol=2e-3)
    np.testing.assert_allclose(np.nan_to_num(bends.torsion), 0.0, atol=1e-8)


def test_straight_line():
    x = _curve(3 * ANGLES, -4 * ANGLES, 0 * ANGLES, size=5)
    np.testing.assert_allclose(geometry.deviation(x), 0.0, atol=1e-12)
    np.testing.assert_allclose(geometry.frenet(x, 51).curvature, 0.0, atol=1e-10)
    assert geometry.explained_variance(x, 1)[0, 0] == pytest.approx(1.0)
    found = geometry.project(x)
    np.testing.assert_allclose(found.residual, 0.0, atol=1e-7)
    np.testing.assert_allclose(found.coordinates[..., 1:], 0.0, atol=1e-12)
    np.testing.assert_allclose(found.coordinates[0, 0, 0], -10 * np.pi)


def test_projection_restores_a_space_curve():
    x = _curve(ANGLES, np.sin(ANGLES / 2), 0.3 * np.sin(ANGLES), size=8)
    found = geometry.project(x)
    again = np.einsum("sbk,bkd->sbd", found.coordinates, found.axes) + x[-1]
    np.testing.assert_allclose(again, x, atol=1e-10)
    np.testing.assert_allclose(found.axes[0] @ found.axes[0].T, np.eye(3), atol=1e-12)
    assert found.residual[0, 0] > found.residual[0, 1] > 0.01
    assert found.residual[0, 2] < 1e-7
    assert np.all(found.coordinates[len(x) // 2, 0, 1:] >= -1e-12)


def test_align_undoes_a_turn_about_the_chord():
    one = geometry.project(_curve(ANGLES, np.sin(ANGLES / 2), np.sin(ANGLES)))
    base = one.coordinates
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    turned = np.concatenate([base[..., :1], base[..., 1:] @ turn], axis=-1)
    both = np.concatenate([base, turned], axis=1)
    aligned = geometry.align(both)
    np.testing.assert_allclose(aligned[:, 1], base[:, 0], atol=1e-10)
    np.testing.assert_allclose(aligned[:, 0], base[:, 0], atol=1e-10)


@pytest.fixture(scope="module")
def digits():
    """The density, sigmas and trajectories of the published facts in the spec."""
    data = load_digits()
    parts = densities.mixture_of_classes(data.data / 8 - 1, data.target)
    denoise = densities.mixture(*parts)
    sigmas = schedules.polynomial(101, 0.002, 80.0)
    run = samplers.sample(
        denoise, samplers.latents(range(64), (64,), 80.0), sigmas, "euler"
    )
    return denoise, sigmas, run.x


@pytest.mark.slow
def test_digits_trajectories_are_nearly_straight_in_three_dimensions(digits):
    _, sigmas, x = digits
    explained = geometry.explained_variance(x, 3)
    assert explained.sum(axis=1).min() > 0.999
    assert explained[:, 0].mean() == pytest.approx(0.99995, abs=3e-5)
    assert geometry.project(x).residual[:, -1].max() < 1e-3
    length = geometry.arc_length(x)[-1].mean()
    assert length / (80.0 * np.sqrt(64)) == pytest.approx(1.0, abs=0.02)
    away = geometry.deviation(x).mean(axis=1)
    assert 3.0 < sigmas[away.argmax()] < 10.0
    assert away.max() == pytest.approx(2.93, rel=0.05)


def test_digits_denoising_path_bends_later(digits):
    denoise, sigmas, x = digits
    path = geometry.denoising_path(denoise, x, sigmas)
    # To the rounding of float32 inputs of this size.
    away = 8 * np.finfo(np.float32).eps * np.abs(x[7]).max()
    np.testing.assert_allclose(path[7], denoise(x[7], sigmas[7]), atol=away)
    step = (sigmas[8] / sigmas[7]) * x[7] + (1 - sigmas[8] / sigmas[7]) * path[7]
    np.testing.assert_allclose(x[8], step, atol=1e-4)
    away = geometry.deviation(path).mean(axis=1)
    assert away.max() == pytest.approx(0.88, rel=0.1)
    assert 0.8 < sigmas[away.argmax()] < 1.7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: geometry.deviation(x[:, 0]), r"\[num_sigmas, batch, ...\]"),
        (lambda x: geometry.arc_length(x[:1]), "at least two states"),
        (lambda x: geometry.deviation(np.concatenate([x, x[:1]])), "ends where"),
        (lambda x: geometry.frenet(x, 10), "window of 10"),
        (lambda x: geometry.frenet(x[:9], 11), "window of 11 for 9"),
        (lambda x: geometry.frenet(np.repeat(x, 2, axis=0), 5), "coincide"),
        (lambda x: geometry.explained_variance(x, 4), "4 components"),
        (lambda x: geometry.project(x, 3), "3 components"),
        (lambda x: geometry.denoising_path(abs, x, np.ones(3)), "one for each"),
    ],
)
def test_bad_trajectories(call, message):
    x = _curve(ANGLES, np.sin(ANGLES), np.cos(ANGLES))
    with pytest.raises(ValueError, match=message):
        call(x)


def test_frechet_distance_of_gaussians_in_closed_form(tmp_path):
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    one, other = np.array([0.5, 1, 2, 4.0]), np.array([1, 1, 3, 0.1])
    first = frechet.Moments(np.zeros(4), (axes * one) @ axes.T)
    second = frechet.Moments(np.ones(4), (axes * other) @ axes.T)
    # Covariances that share their axes differ as their standard deviations do.
    expected = 4 + np.sum((np.sqrt(one) - np.sqrt(other)) ** 2)
    assert frechet.distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert frechet.distance(first, first) == pytest.approx(0, abs=1e-12)
    np.savez(tmp_path / "reference.npz", mu=second.mean, sigma=second.covariance)
    read = frechet.read(tmp_path / "reference.npz")
    assert frechet.distance(first, read) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="expected"):
        frechet.distance(first, frechet.Moments(np.ones(3), np.eye(3)))


def test_moments_of_a_mixture_are_those_of_its_samples():
    rng = np.random.default_rng(2)
    weights, means = np.array([1.0, 3.0]), rng.normal(size=(2, 3))
    spreads = rng.uniform(0.1, 1, (2, 3))
    exact = frechet.of_mixture(weights, means, spreads)
    which = rng.choice(2, size=200_000, p=weights / 4)
    drawn = means[which] + np.sqrt(spreads[which]) * rng.normal(size=(200_000, 3))
    found = frechet.moments(drawn)
    np.testing.assert_allclose(exact.mean, found.mean, atol=0.01)
    np.testing.assert_allclose(exact.covariance, found.covariance, atol=0.02)
    doubled = frechet.moments(drawn, lambda samples: 2 * samples)
    np.testing.assert_allclose(doubled.covariance, 4 * found.covariance)
    full = np.stack([np.diag(row) for row in spreads])
    again = frechet.of_mixture(weights, means, full)
    np.testing.assert_allclose(again.covariance, exact.covariance)


def test_paths_are_finite_under_jit(digits):
    denoise, sigmas, x = digits
    path = jax.jit(lambda x: geometry.denoising_path(denoise, x, sigmas))(x[:, :2])
    assert bool(jnp.isfinite(path).all())
