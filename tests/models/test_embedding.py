"""WaveResNet and the embedding networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models import waveresnet

SMALL = {"stem": 2, "widths": (2, 3), "strides": (1, 2)}


def variables_of(network, images):
    return jax.jit(network.init)(jax.random.key(0), images)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


@pytest.mark.slow
def test_logits_are_scaled_cosines(images):
    network = models.build("embed8", 5, width=6, scale=7.0, **SMALL)
    variables = variables_of(network, images)
    logits, features = network.apply(variables, images)
    rows = np.asarray(features["embedding"])
    directions = np.asarray(variables["params"]["directions"])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    directions = directions / np.linalg.norm(directions, axis=0)
    np.testing.assert_allclose(features["cosines"], rows @ directions, 1e-4, 1e-6)
    np.testing.assert_allclose(logits, 7 * features["cosines"], 1e-6)
    assert features["pooled"].shape == (4, 3) and rows.shape == (4, 6)


def test_waves_and_strides_have_maps_of_one_shape(images):
    shapes = [
        models.feature_shapes(models.build(name, 5, **SMALL), (8, 8, 3))
        for name in ("embed8", "embed8_wavelets")
    ]
    for name in ("stem", "stage1", "stage2", "pooled", "embedding", "cosines"):
        assert shapes[0][name] == shapes[1][name]


def test_waves_shrink_by_any_power_of_two(images):
    sizes = {"stem": 2, "widths": (2, 3), "strides": (8, 1)}
    shapes = [
        models.feature_shapes(models.build(name, 5, **sizes), (8, 8, 3))
        for name in ("embed8", "embed8_wavelets")
    ]
    assert shapes[0]["stage1"] == shapes[1]["stage1"]
    assert shapes[0]["stage2"] == shapes[1]["stage2"]
    network = models.build("embed8_wavelets", 5, **sizes | {"strides": (3, 1)})
    with pytest.raises(ValueError, match="A stride is 3, expected a power of two"):
        network.init(jax.random.key(0), images)


def test_a_wide_stride_skips_pixels_that_waves_see(images):
    """The pixel at (5, 5) is outside the 5 x 5 that a place sees at a stride of 8."""
    changed = images.at[:, 5, 5].add(3.0)
    moved = {}
    for name in ("embed8", "embed8_wavelets"):
        network = models.build(name, 5, stem=2, widths=(2,), strides=(8,))
        variables = variables_of(network, images)
        pooled = jax.jit(lambda x, n=network, v=variables: n.apply(v, x)[1]["pooled"])
        a, b = pooled(images), pooled(changed)
        moved[name] = float(jnp.abs(a - b).max())
    assert moved["embed8"] == 0
    assert moved["embed8_wavelets"] > 1e-3


def test_shrinking_keeps_the_mean_of_blocks():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    kept = waveresnet.Shrink(3, False, None).apply({}, x)
    blocks = np.asarray(x).reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(kept, blocks, 1e-5, 1e-6)


def test_a_shift_by_a_checkerboard_is_not_seen_by_waves():
    """A stride sees the finest pattern as a change of brightness; the mean does not."""
    board = jnp.asarray(np.indices((8, 8)).sum(0) % 2 * 2.0 - 1)[None, :, :, None]
    kept = waveresnet.Shrink(1, False, None).apply({}, board)
    np.testing.assert_allclose(kept, 0, atol=1e-6)
    np.testing.assert_allclose(board[:, ::2, ::2], -1)


@pytest.mark.slow
def test_details_are_added(images):
    network = models.build(
        "waveresnet8", 5, stem=2, widths=(2, 3), halve=(0, 1), details=True
    )
    variables = variables_of(network, images)
    kernel = variables["params"]["stage2_shrink0"]["details"]["kernel"]
    assert kernel.shape == (1, 1, 6, 2)
    zeroed = jax.tree.map(jnp.zeros_like, variables["params"]["stage2_shrink0"])
    params = {**variables["params"], "stage2_shrink0": zeroed}
    with_details = network.apply(variables, images)[0]
    without = network.apply({**variables, "params": params}, images)[0]
    assert jnp.abs(with_details - without).max() > 1e-4


def test_wavelets_refuse_what_they_do_not_have(images):
    network = models.build("embed8_wavelets", 5, bottleneck=True, **SMALL)
    with pytest.raises(
        ValueError, match="wavelets=True goes with one number of blocks"
    ):
        jax.eval_shape(network.init, jax.random.key(0), images)
