"""Blur kernels: closed forms, SciPy's Bessel function, the spectrum of the sinc."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, special

from jaxkd.views import blur_kernels, real_esrgan


def moments(kernel):
    """Returns the covariance of a kernel as a density of (across, down)."""
    reach = len(kernel) // 2
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.float64(kernel)
    assert abs((kernel * across).sum()) < 1e-5 > abs((kernel * down).sum())
    xy = (kernel * across * down).sum()
    return [
        [(kernel * across**2).sum(), xy],
        [xy, (kernel * down**2).sum()],
    ]


@pytest.mark.parametrize("angle", [0.0, 0.6, -2.0])
def test_a_gaussian_has_the_asked_covariance(angle):
    squared = blur_kernels.squared_distance(jnp.array([2.5, 1.2]), angle, 12)
    kernel = blur_kernels.cut(blur_kernels.generalized(squared, 1.0), 25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = turn @ np.diag([2.5**2, 1.2**2]) @ turn.T
    np.testing.assert_allclose(moments(kernel), expected, 1e-3, 1e-3)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_generalised_and_plateau_by_their_formulas(beta):
    """Along the axis, of q = (r / s)^2: exp(-q^beta / 2) and 1 / (1 + q^beta)."""
    squared = blur_kernels.squared_distance(jnp.array([1.5, 1.5]), 0.3, 6)
    r = np.arange(7)
    for kind, expected in (
        (blur_kernels.generalized, np.exp(-0.5 * (r / 1.5) ** (2 * beta))),
        (blur_kernels.plateau, 1 / (1 + (r / 1.5) ** (2 * beta))),
    ):
        kernel = kind(squared, beta)
        np.testing.assert_allclose(kernel[6, 6:], expected, 1e-4, 1e-7)
        cut = blur_kernels.cut(kernel, 7)
        assert float(cut.sum()) == pytest.approx(1, abs=1e-5)
        assert (cut[2:3] == 0).all() and (cut[:, 10:] == 0).all() and cut[3, 3] > 0
        np.testing.assert_allclose(cut[6, 9] / cut[6, 6], expected[3], 1e-4, 1e-7)


def test_bessel_as_scipy():
    x = np.linspace(0, 64, 500).astype(np.float32)
    found = blur_kernels.bessel_j1(jnp.asarray(x))
    np.testing.assert_allclose(found, special.j1(np.float64(x)), atol=5e-6)


@pytest.mark.parametrize("cutoff", [np.pi / 3, np.pi / 2, 2.2])
def test_the_sinc_passes_below_its_cutoff(cutoff):
    kernel = np.asarray(blur_kernels.sinc(cutoff, 41, 20))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    place = np.arange(-20, 21)
    for factor, expected in ((0.5, 1), (0.7, 1), (1.3, 0)):
        for along in (0.0, np.pi / 4):
            across, down = factor * cutoff * np.array([np.cos(along), np.sin(along)])
            wave = np.cos(across * place) * np.cos(down * place)[:, None]
            assert (kernel * wave).sum() == pytest.approx(expected, abs=0.12)
    assert kernel.min() < -1e-3  # it rings


def test_a_filter_as_scipy():
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(9, 12, 3)).astype(np.float32)
    squared = blur_kernels.squared_distance(jnp.array([2.0, 0.8]), 0.5, 3)
    kernel = blur_kernels.cut(blur_kernels.generalized(squared, 1.0), 7)
    found = blur_kernels.apply(jnp.asarray(image), kernel)
    for channel in range(3):
        expected = ndimage.correlate(image[..., channel], kernel, mode="nearest")
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)


def test_drawn_kernels():
    """All sum to 1 and lie in their size; kinds and sizes are as frequent as asked."""
    one = real_esrgan.FIRST._replace(blur_chance=1.0, sinc_chance=0.25)
    draw = jax.jit(jax.vmap(lambda key: real_esrgan.draw_kernel(key, one, (7, 21))))
    kernels = np.asarray(draw(jax.random.split(jax.random.key(0), 800)))
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(kernels, kernels[:, ::-1, ::-1], atol=1e-5)
    ringing = kernels.min((1, 2)) < -1e-6
    assert ringing.mean() == pytest.approx(0.25, abs=0.06)  # 4 standard deviations
    used = (kernels != 0).any(2).sum(1)
    assert set(used[ringing]) == set(range(7, 22, 2))
    gaussian = kernels[~ringing]
    isotropic = np.abs(gaussian - gaussian.transpose(0, 2, 1)).max((1, 2)) < 1e-6
    assert isotropic.mean() == pytest.approx(0.45 + 0.12 + 0.12, abs=0.07)
    off = one._replace(blur_chance=0.0)
    kept = real_esrgan.draw_kernel(jax.random.key(0), off, (7, 21))
    np.testing.assert_array_equal(kept, blur_kernels.delta(10))
