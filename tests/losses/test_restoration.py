"""Losses of super-resolution against their formulas and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import restoration
from tests.losses.feature_reference import gradient


def test_knowledge_distance_and_its_gradients():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 2, 3, 3, 4, 5))
    gates = rng.dirichlet(np.ones(4), (2, 3, 3))

    def reference(s, gates):
        kinds = [
            (gates[..., g, None] * np.abs(s - t)[..., g, :]).mean((1, 2, 3))
            for g in range(4)
        ]
        return np.sum(kinds, axis=0)

    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (s, t, gates)]
        value, pull = jax.vjp(restoration.knowledge_distance, *arrays)
        slopes = pull(jnp.ones(2))
    np.testing.assert_allclose(value, reference(s, gates), 1e-10)
    numeric = gradient(lambda s: reference(s, gates).sum(), s)
    np.testing.assert_allclose(slopes[0], numeric, 1e-5, 1e-9)
    numeric = gradient(lambda gates: reference(s, gates).sum(), gates)
    np.testing.assert_allclose(slopes[2], numeric, 1e-5, 1e-9)
    assert not slopes[1].any()


def test_score_distillation_moves_along_the_difference():
    rng = np.random.default_rng(1)
    z, e_s, e_t = rng.normal(size=(3, 2, 4, 4, 3))
    value, pull = jax.vjp(
        restoration.score_distillation, *map(jnp.asarray, (z, e_s, e_t))
    )
    np.testing.assert_allclose(value, ((e_s - e_t) * z).mean((1, 2, 3)), 1e-4, 1e-6)
    slopes = pull(jnp.ones(2))
    np.testing.assert_allclose(slopes[0], (e_s - e_t) / 48, 1e-5, 1e-7)
    assert not slopes[1].any() and not slopes[2].any()


def test_hinge_losses():
    real, fake = jnp.array([[2.0, 0.5], [-1, 1]]), jnp.array([[-3.0, -0.5], [1, 1]])
    loss = restoration.hinge_discriminator(real, fake)
    np.testing.assert_allclose(loss, [0.25 + 0.25, 1.0 + 2.0])
    np.testing.assert_allclose(restoration.hinge_generator(fake), [1.75, -1])


def test_wrong_shapes():
    maps = jnp.zeros((1, 2, 2, 3, 4))
    with pytest.raises(ValueError, match="the same without channels"):
        restoration.knowledge_distance(maps, maps, jnp.zeros((1, 2, 2, 4)))
    with pytest.raises(ValueError, match="equal"):
        restoration.score_distillation(maps, maps, maps[0])
