"""Joint embedding of images and labels against NumPy, and what of it is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models.label_table import CONSTANTS, LabelTable

WIDTHS = {"stem": 4, "widths": (4, 4, 6), "width": 5}


def images(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_logits_are_scaled_cosines():
    network = models.build("joint_resnet8", 10, **WIDTHS)
    variables = network.init(jax.random.key(0), images(1, 8, 8, 3))
    bias = np.linspace(-1, 1, 10)
    variables["params"]["fc"]["bias"] = jnp.asarray(bias)
    variables["params"]["fc"]["log_scale"] = jnp.float32(1.3)
    logits, features = network.apply(variables, images(3, 8, 8, 3))
    x, table = (
        np.asarray(rows, np.float64)
        for rows in (
            features["embedding"],
            variables["params"]["fc"]["embeddings"],
        )
    )
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(table, axis=1)
    np.testing.assert_allclose(logits, np.exp(1.3) * x @ table.T / lengths + bias, 1e-4)
    assert x.shape == (3, 5) and np.abs(logits).max() <= np.exp(1.3) + 1


def test_a_scale_that_is_not_learnt_is_no_parameter():
    rows = images(4, 6)
    variables = LabelTable(3, bias=False, learn_scale=False).init(
        jax.random.key(0), rows
    )
    assert set(variables["params"]) == {"embeddings"}
    assert float(variables[CONSTANTS]["log_scale"]) == pytest.approx(
        np.log(1 / 0.07), 1e-4
    )
    learnt = LabelTable(3).init(jax.random.key(0), rows)
    assert set(learnt) == {"params"}
    slopes = jax.grad(lambda v: LabelTable(3).apply(v, rows)[:, 0].sum())(learnt)
    assert abs(float(slopes["params"]["log_scale"])) > 1e-3


def test_an_image_without_features_has_the_bias_alone():
    variables = LabelTable(3).init(jax.random.key(0), jnp.zeros((1, 6)))
    variables["params"]["bias"] = jnp.array([1.0, 2.0, 3.0])

    def first(rows):
        return LabelTable(3).apply(variables, rows)

    np.testing.assert_array_equal(first(jnp.zeros((1, 6)))[0], [1, 2, 3])
    slope = jax.grad(lambda rows: first(rows).sum())(jnp.zeros((1, 6)))
    assert np.isfinite(slope).all()
