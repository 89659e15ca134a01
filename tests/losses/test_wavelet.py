"""The Haar transform as a matrix, and the similarity made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import wavelet
from tests.losses.feature_reference import gradient


def draw(seed=0, shape=(2, 4, 6, 3)):
    return np.random.default_rng(seed).normal(size=shape)


def test_haar_is_the_orthonormal_transform_along_both_axes():
    x = draw()
    low = np.kron(np.eye(8), [1, 1]) / np.sqrt(2)
    high = np.kron(np.eye(8), [1, -1]) / np.sqrt(2)

    def along(down, across):
        return np.einsum("oh,pw,bhwc->bopc", down[:2, :4], across[:3, :6], x)

    wanted = along(low, low), along(low, high), along(high, low), along(high, high)
    parts = wavelet.haar(jnp.asarray(x))
    for part, reference in zip(parts, wanted, strict=True):
        np.testing.assert_allclose(part, reference, 1e-5, 1e-6)
    energy = sum(float(jnp.sum(part**2)) for part in parts)
    np.testing.assert_allclose(energy, np.sum(x**2), 1e-5)


def test_the_inverse():
    x = jnp.asarray(draw())
    np.testing.assert_allclose(wavelet.inverse_haar(*wavelet.haar(x)), x, 1e-5, 1e-6)


def similarity(s, t):
    ll = [
        sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)).reshape(len(x), -1)
        for x in (s, t)
    ]
    norms = np.linalg.norm(ll[0], axis=1) * np.linalg.norm(ll[1], axis=1)
    return 1 - (ll[0] * ll[1]).sum(1) / norms


def test_similarity_and_its_gradient():
    s, t = draw(0), draw(1)
    with jax.enable_x64(True):
        value, pull = jax.vjp(wavelet.wavelet_similarity, *map(jnp.asarray, (s, t)))
        slopes = pull(jnp.ones(2))
    np.testing.assert_allclose(value, similarity(s, t), 1e-10)
    numeric = gradient(lambda s: similarity(s, t).sum(), s)
    np.testing.assert_allclose(slopes[0], numeric, 1e-6, 1e-8)
    assert not slopes[1].any()  # the teacher learns nothing


def test_similarity_knows_no_scale_and_no_detail():
    x = draw()
    detail = np.tile(np.array([[1.0, -1], [-1, 1]]), (2, 3))[None, :, :, None]
    value = wavelet.wavelet_similarity(jnp.asarray(5 * x + detail), jnp.asarray(x))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    opposite = wavelet.wavelet_similarity(jnp.asarray(-x), jnp.asarray(x))
    np.testing.assert_allclose(opposite, 2, 1e-6)


def test_zero_maps():
    zero = jnp.zeros((2, 4, 6, 3))
    value, pull = jax.vjp(lambda s: wavelet.wavelet_similarity(s, zero + 1), zero)
    np.testing.assert_array_equal(value, 1)
    assert np.isfinite(pull(jnp.ones(2))[0]).all()


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"expected .*channels\] of even sides"):
        wavelet.haar(jnp.zeros((1, 7, 4, 2)))
    with pytest.raises(
        ValueError, match=r"expected equal. Enlarge the student's images"
    ):
        wavelet.wavelet_similarity(jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 8, 8, 2)))
