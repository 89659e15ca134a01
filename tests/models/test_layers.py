import ast
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxkd
from jaxkd.models import layers


def random(*shape, seed=0, loc=0.0):
    values = np.random.default_rng(seed).normal(loc, 1.0, shape)
    return values.astype(np.float32)


def norm_variables(channels):
    return {
        "params": {"scale": random(channels, seed=1), "bias": random(channels, seed=2)},
        "batch_stats": {
            "mean": random(channels, seed=3),
            "var": np.exp(random(channels, seed=4)),
        },
    }


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_is_that_of_flax(train):
    x, variables = random(4, 3, 3, 5, loc=0.5), norm_variables(5)
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    ours = layers.BatchNorm(train=train)
    wanted = theirs.apply(variables, x, mutable=["batch_stats"])
    got = ours.apply(variables, x, mutable=["batch_stats"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, wanted)


@pytest.mark.parametrize("unbiased", [False, True])
def test_running_variance(unbiased):
    x, variables = random(2, 2, 2, 3), norm_variables(3)
    norm = layers.BatchNorm(train=True, unbiased_variance=unbiased)
    y, updated = norm.apply(variables, x, mutable=["batch_stats"])
    rows = x.reshape(8, 3).astype(np.float64)
    old = variables["batch_stats"]
    new = updated["batch_stats"]
    wanted = 0.9 * old["var"] + 0.1 * rows.var(axis=0, ddof=int(unbiased))
    np.testing.assert_allclose(new["var"], wanted, rtol=1e-5)
    wanted = 0.9 * old["mean"] + 0.1 * rows.mean(axis=0)
    np.testing.assert_allclose(new["mean"], wanted, rtol=1e-5, atol=1e-6)
    # The normalisation itself takes the biased variance.
    normal = (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-5)
    wanted = normal * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(y.reshape(8, 3), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 300.0, 3_000.0, 30_000.0])
def test_variance_far_from_zero(offset):
    """Against two passes in float64, over the same float32 values."""
    x = random(16, 4, 4, 3, loc=offset)
    rows = x.reshape(-1, 3).astype(np.float64)
    mean, var = layers.moments(jnp.asarray(x))
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, rows.var(axis=0), rtol=1e-3)
    where = np.arange(16)[:, None, None, None] < 5
    _, var = layers.moments(jnp.asarray(x), where)
    np.testing.assert_allclose(var, rows[:80].var(axis=0), rtol=1e-3)
    normed, variables = layers.BatchNorm(train=True), norm_variables(3)
    y, updated = normed.apply(variables, x, mutable=["batch_stats"])
    wanted = 0.9 * variables["batch_stats"]["var"] + 0.1 * rows.var(axis=0)
    np.testing.assert_allclose(updated["batch_stats"]["var"], wanted, rtol=1e-3)
    wanted = (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-5)
    wanted = wanted * variables["params"]["scale"] + variables["params"]["bias"]
    # What a rounded mean of that size leaves.
    close = 1e-5 + 2e-7 * offset
    np.testing.assert_allclose(y.reshape(-1, 3), wanted, atol=4 * close)


def test_no_layer_takes_the_variance_of_one_pass():
    """Flax's default loses it where it is small beside the mean."""
    folder, count = Path(jaxkd.__file__).parent, 0
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if re.fullmatch(r"nn\.(Batch|Layer|Group|Instance)Norm", name):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("use_fast_variance") == "False", (path, node.lineno)
                count += 1
    assert count >= 3
    for layer in (layers.LayerNorm(), layers.GroupNorm(2)):
        x = random(4, 8, loc=3_000.0)
        y, _ = layer.init_with_output(jax.random.key(0), jnp.asarray(x))
        size = 8 if isinstance(layer, nn.LayerNorm) else 4
        groups = x.astype(np.float64).reshape(4, -1, size)
        wanted = groups - groups.mean(-1, keepdims=True)
        wanted /= np.sqrt(groups.var(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(y, wanted.reshape(4, 8), atol=5e-3)


def test_running_variance_of_a_single_value_is_finite():
    norm = layers.BatchNorm(train=True, unbiased_variance=True)
    y, updated = norm.apply(
        norm_variables(3), random(1, 1, 1, 3), mutable=["batch_stats"]
    )
    assert np.isfinite(y).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(updated))


def test_statistics_start_at_the_standard_normal():
    variables = layers.BatchNorm(train=True).init(jax.random.key(0), random(4, 3) + 5)
    assert (variables["batch_stats"]["mean"] == 0).all()
    assert (variables["batch_stats"]["var"] == 1).all()


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_shuffled_channels(groups):
    x = random(2, 3, 3, 12)
    shuffled = layers.shuffle_channels(jnp.asarray(x), groups)
    for i in range(groups):
        for j in range(12 // groups):
            source = x[..., i * (12 // groups) + j]
            np.testing.assert_array_equal(shuffled[..., j * groups + i], source)


@pytest.mark.parametrize("size", [5, 6])
def test_subsampling_replaces_the_stride_of_a_small_kernel(size):
    x = random(2, size, size, 3)
    strided = layers.conv(4, 1, 2, name="conv")
    variables = strided.init(jax.random.key(0), x)
    plain = layers.conv(4, 1, name="conv")
    got = plain.apply(variables, layers.subsample(x, 2))
    np.testing.assert_allclose(got, strided.apply(variables, x), rtol=1e-5, atol=1e-6)


def test_linear_in_half_precision_inputs():
    linear = layers.Linear(3)
    x = jnp.asarray(random(4, 5), jnp.bfloat16)
    variables = linear.init(jax.random.key(0), x)
    y = linear.apply(variables, x)
    params = variables["params"]
    assert y.dtype == jnp.float32
    wanted = np.asarray(x, np.float32) @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
