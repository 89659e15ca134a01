"""Resizes of traced sizes in a canvas against those of fixed sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.views import canvas, degrade


@pytest.mark.parametrize("kernel", degrade.KERNELS)
def test_as_fixed_sizes(kernel):
    image = np.random.default_rng(0).uniform(size=(12, 15, 2)).astype(np.float32)
    wide = np.pad(image, [(0, 4), (0, 1), (0, 0)], mode="edge")
    resize = jax.jit(
        lambda x, before, after: canvas.resize(
            x, before, after, (20, 18), ("nearest", kernel), jnp.array(1)
        )
    )
    for after in ((12, 15), (5, 4), (20, 18), (1, 7), (13, 16)):
        found = resize(wide, jnp.array([12, 15]), jnp.array(after))
        expected = degrade.resize(jnp.asarray(image), after, kernel)
        rest = [(0, 20 - after[0]), (0, 18 - after[1]), (0, 0)]
        np.testing.assert_allclose(found, np.pad(expected, rest, "edge"), atol=2e-5)


def test_extend_repeats_the_border():
    image = np.random.default_rng(1).uniform(size=(6, 5, 1)).astype(np.float32)
    found = canvas.extend(jnp.asarray(image), jnp.array([4, 2]))
    expected = np.pad(image[:4, :2], [(0, 2), (0, 3), (0, 0)], mode="edge")
    np.testing.assert_array_equal(found, expected)
