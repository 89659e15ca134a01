"""AT+ against loops over classes and channels, and by two ways to its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import class_maps as plus
from tests.losses.feature_reference import gradient

BATCH, HEIGHT, WIDTH, CHANNELS, CLASSES = 2, 3, 4, 5, 3


def draw(seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(BATCH, HEIGHT, WIDTH, CHANNELS))
    return features, rng.normal(size=(CHANNELS, CLASSES))


def maps(features, weights):
    out = np.zeros((*features.shape[:3], CLASSES))
    for b in range(len(features)):
        for c in range(CLASSES):
            for k in range(features.shape[-1]):
                out[b, :, :, c] += np.maximum(
                    weights[b, c, k] * features[b, :, :, k], 0
                )
    return out


def loss(s, t):
    total = []
    for one, other in zip(s, t, strict=True):
        one, other = ((x - x.min()) / (x.max() - x.min() + 1e-8) for x in (one, other))
        total.append(np.sqrt(np.mean((one - other) ** 2)))
    return np.array(total)


def test_weights_of_a_pooled_linear_head_need_no_derivative():
    features, kernel = draw()
    with jax.enable_x64(True):
        kernel = jnp.asarray(kernel)
        by_gradient = plus.gradient_weights(
            lambda f: jnp.mean(f, (1, 2)) @ kernel + 3.0, jnp.asarray(features)
        )
        closed = plus.linear_head_weights(kernel, (HEIGHT, WIDTH))
        np.testing.assert_allclose(
            by_gradient, jnp.broadcast_to(closed, by_gradient.shape), 1e-12
        )


def test_weights_of_another_head():
    features, kernel = draw()
    with jax.enable_x64(True):
        kernel = jnp.asarray(kernel)
        weights = plus.gradient_weights(
            lambda f: jnp.mean(f**2, (1, 2)) @ kernel, jnp.asarray(features)
        )
    # d mean(f^2) / df = 2 f / (H W), whose spatial mean is 2 mean(f) / (H W).
    mean = 2 * features.mean((1, 2)) / (HEIGHT * WIDTH)
    wanted = mean[:, None, :] * np.asarray(kernel).T[None]
    np.testing.assert_allclose(weights, wanted, 1e-10)


def test_maps_and_loss_with_gradient():
    (s, kernel), (t, other) = draw(0), draw(1)
    weights = np.broadcast_to(kernel.T / 12, (BATCH, CLASSES, CHANNELS))
    teacher = maps(t, np.broadcast_to(other.T / 12, weights.shape))

    def measured(s):
        own = plus.class_attention(s, plus.linear_head_weights(kernel, (3, 4)))
        return plus.attention_plus(own, jnp.asarray(teacher))

    with jax.enable_x64(True):
        own = plus.class_attention(jnp.asarray(s), jnp.asarray(weights))
        value, pull = jax.vjp(measured, jnp.asarray(s))
        slope = pull(jnp.ones(BATCH))[0]
    np.testing.assert_allclose(own, maps(s, weights), 1e-12)
    np.testing.assert_allclose(value, loss(maps(s, weights), teacher), 1e-10)
    numeric = gradient(lambda s: loss(maps(s, weights), teacher).sum(), s)
    np.testing.assert_allclose(slope, numeric, 1e-5, 1e-7)


def test_scale_of_a_map_does_not_count():
    maps = jnp.abs(jnp.asarray(draw()[0]))
    np.testing.assert_allclose(plus.attention_plus(7 * maps + 2, maps), 0, atol=1e-6)
    assert (plus.attention_plus(maps**2, maps) > 0.01).all()


def test_flat_and_equal_maps_are_finite():
    flat = jnp.ones((2, 3, 4, 3))
    for teacher in (flat, jnp.abs(jnp.asarray(draw()[0][..., :3]))):
        value, pull = jax.vjp(lambda s, t=teacher: plus.attention_plus(s, t), flat)
        assert np.isfinite(value).all() and np.isfinite(pull(jnp.ones(2))[0]).all()
    slope = jax.grad(lambda s: plus.root_mean_square(s, flat))(flat)
    assert not slope.any()


def test_root_mean_square():
    (s, _), (t, _) = draw(0), draw(1)
    value = plus.root_mean_square(jnp.asarray(s), jnp.asarray(t))
    np.testing.assert_allclose(value, np.sqrt(np.mean((s - t) ** 2)), 1e-6)
    with pytest.raises(ValueError, match="Map the student's features"):
        plus.root_mean_square(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
