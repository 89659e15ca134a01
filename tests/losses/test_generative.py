"""Likelihoods, reconstruction errors and pair losses against independent values."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxkd import losses
from jaxkd.losses import generative
from tests.losses import self_supervised_reference as reference

rng = np.random.default_rng(0)
X, MEAN = rng.normal(size=(2, 3, 2, 2))


def test_kl_is_the_integral():
    log_variance = rng.uniform(-1, 1, MEAN.shape)
    exact = reference.gaussian_kl(MEAN, log_variance)
    np.testing.assert_allclose(losses.gaussian_kl(MEAN, log_variance), exact, 1e-5)
    zero = jnp.zeros((2, 3))
    assert np.all(losses.gaussian_kl(zero, zero) == 0)
    assert np.all(jax.grad(lambda m: losses.gaussian_kl(m, zero).sum())(zero) == 0)


def test_log_likelihood_is_scipys():
    found = losses.gaussian_log_likelihood(X, MEAN, 0.3)
    exact = stats.norm.logpdf(X, MEAN, np.exp(0.3)).reshape(3, -1).sum(1)
    np.testing.assert_allclose(found, exact, 1e-5)


def test_patch_error_reads_the_chosen_patches_alone():
    predicted, target = rng.normal(size=(2, 3, 4, 5))
    where = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    found, slope = jax.value_and_grad(
        lambda p, t: losses.patch_error(p, t, where).sum(), (0, 1)
    )(predicted, target)
    exact = [
        np.mean((p[w] - t[w]) ** 2) if w.any() else 0.0
        for p, t, w in zip(predicted, target, where, strict=True)
    ]
    np.testing.assert_allclose(found, np.sum(exact), 1e-5)
    assert not np.any(slope[0][~where]) and np.any(slope[0][where])
    assert not np.any(slope[1])


def test_contrastive_margin():
    distance = np.array([0.0, 0.5, 1.0, 3.0, 0.0, 3.0])
    same = np.array([1, 1, 0, 0, 0, 1], bool)
    exact = [0, 0.125, 0.5, 0, 2, 4.5]
    found, slope = jax.vjp(lambda d: losses.contrastive_margin(d, same), distance)
    np.testing.assert_allclose(found, exact, 1e-6)
    # Positives are pulled together, negatives within the margin pushed apart.
    expected = [0, 0.5, -1, 0, -2, 3]
    np.testing.assert_allclose(slope(jnp.ones(6))[0], expected, 1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.gaussian_kl(X, X[:1]), "mean has shape"),
        (lambda: losses.patch_error(X, X, np.ones((3, 3), bool)), "where has shape"),
        (lambda: losses.contrastive_margin(np.ones(2), np.ones(3)), "same"),
    ],
)
def test_errors_name_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_docstring_examples():
    found = doctest.testmod(generative, optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed
