"""SRCNN's size, and patches that join again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.models import srcnn


def test_the_published_size():
    model = srcnn.SRCNN()
    grey = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), grey)
    weights = [x for x in jax.tree.leaves(shapes) if x.ndim == 4]
    assert sum(x.size for x in weights) == 8_032  # as the paper counts, without biases


def test_patches_pixel_by_pixel_and_joined():
    x = np.random.default_rng(0).normal(size=(2, 10, 14, 3)).astype(np.float32)
    cut = srcnn.patches(jnp.asarray(x), 6, 4)
    assert cut.shape == (2, 2, 3, 6, 6, 3)
    for i, j in np.ndindex(2, 3):
        expected = x[:, 4 * i : 4 * i + 6, 4 * j : 4 * j + 6]
        np.testing.assert_array_equal(cut[:, i, j], expected)
    np.testing.assert_allclose(srcnn.joined(cut, 4), x, 1e-5, 1e-6)
    numbers = jnp.arange(6.0).reshape(1, 2, 3, 1, 1, 1)
    mean = srcnn.joined(jnp.broadcast_to(numbers, (1, 2, 3, 6, 6, 1)), 4)[0, ..., 0]
    assert mean[0, 0] == 0 and mean[0, 4] == 0.5 and mean[5, 5] == 2.0  # of 0 1 3 4


@pytest.mark.parametrize("network", [srcnn.SRCNN, srcnn.PatchAutoencoder])
def test_both_correct_the_enlarged_image(network):
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    model = network(scale=2)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    apply = jax.jit(lambda v: model.apply(v, images)[0])
    plain = jax.image.resize(images, (2, 16, 16, 1), "cubic")
    found = apply(variables)
    assert found.shape == (2, 16, 16, 1)
    assert 1e-5 < jnp.abs(found - plain).max() < 0.3  # begins close to bicubic
    silent = apply(jax.tree.map(jnp.zeros_like, variables))
    np.testing.assert_allclose(silent, plain, 1e-5, 1e-6)


def test_patches_that_do_not_fit():
    model = srcnn.PatchAutoencoder(scale=2)
    with pytest.raises(ValueError, match="to end with the image"):
        model.init(jax.random.key(0), jnp.zeros((1, 7, 8, 1)))
