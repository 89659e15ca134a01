"""Networks of two resolutions, and later stages that continue another's features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models.lowres import Tail

KEY = jax.random.key(0)


def _shapes(name, side):
    network = models.build(name, 100)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(network.init, KEY, images)
    run = jax.eval_shape(network.apply, variables, images)
    return variables, {name: x.shape[1:] for name, x in run[1].items()}


def test_maps_of_teacher_assistant_and_student():
    teacher, seen = _shapes("lowres_teacher", 32)
    assert [seen[f"stage{n}"] for n in (1, 2, 3)] == [
        (16, 16, 32),
        (8, 8, 64),
        (4, 4, 128),
    ]
    assistant, seen = _shapes("lowres_assistant", 8)
    assert [seen[f"stage{n}"][0] for n in (1, 2, 3)] == [8, 4, 2]
    # The assistant can start from the teacher's variables.
    assert jax.tree.map(jnp.shape, teacher) == jax.tree.map(jnp.shape, assistant)
    _, seen = _shapes("lowres_student", 8)
    assert seen["stage3"] == (2, 2, 96) and seen["pooled"] == (96,)


@pytest.mark.slow
def test_a_tail_is_the_rest_of_the_student():
    """With the student's own variables it says what the student says."""
    widths, strides = (4, 6, 8), (1, 2, 2)
    student = models.build("lowres_student", 5, stem=3, widths=widths, strides=strides)
    images = jax.random.normal(KEY, (2, 8, 8, 3))
    variables = jax.jit(student.init)(KEY, images)
    logits, features = jax.jit(student.apply)(variables, images)
    tail = Tail(5, 2, widths, strides, side=8)
    own = jax.jit(tail.init)(KEY, features["stage1"])
    params = {
        name: variables["params"].get(name, layer)
        for name, layer in own["params"].items()
    }
    # The convolution at its entrance passes everything on; the features are >= 0.
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[1, 1] = np.eye(4)
    params["enter_conv"] = {"kernel": jnp.asarray(kernel)}
    said, rest = jax.jit(tail.apply)(
        {"params": params, "batch_stats": own["batch_stats"]}, features["stage1"]
    )
    np.testing.assert_allclose(said, logits, atol=1e-4)
    np.testing.assert_allclose(rest["stage2"], features["stage2"], atol=1e-4)


def test_a_tail_brings_large_features_to_the_students_side():
    tail = Tail(5, 3, (4, 6, 8), (1, 2, 2), side=4)
    features = jnp.zeros((2, 8, 8, 16))
    (logits, seen), _ = jax.eval_shape(tail.init_with_output, KEY, features)
    assert logits.shape == (2, 5) and seen["stage3"].shape == (2, 2, 2, 8)
