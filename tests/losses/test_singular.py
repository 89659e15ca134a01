"""KDSVD against a singular value decomposition of every example."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import feature_reference as reference

BATCH = 2
STUDENT_SHAPES = ((2, 6, 4), (3, 5, 2))
TEACHER_SHAPES = ((4, 6, 3), (2, 5, 4))
WEIGHTS = np.array([1.0, -2.0])


def _layers(seed=3):
    rng = np.random.default_rng(seed)
    return [
        [rng.normal(0.5, 1, (BATCH, *shape)) for shape in shapes]
        for shapes in (STUDENT_SHAPES, TEACHER_SHAPES)
    ]


@partial(jax.jit, static_argnames="rank")
def _measure_jitted(students, teachers, rank):
    value, pullback = jax.vjp(partial(losses.kdsvd, rank=rank), students, teachers)
    return value, *pullback(jnp.asarray(WEIGHTS, value.dtype))


def measure(students, teachers, dtype=jnp.float32, rank=2):
    """Measures the loss: (value, gradients by student, by teacher)."""
    student_order = [
        [jnp.asarray(x, dtype) for x in layers] for layers in (students, teachers)
    ]
    return jax.device_get(_measure_jitted(*student_order, rank))


def _expected(students, teachers, rank):
    examples = [
        [[x[i] for x in layers] for layers in (students, teachers)]
        for i in range(BATCH)
    ]
    return np.array([reference.kdsvd(*layers, rank) for layers in examples])


@pytest.mark.parametrize(
    ("dtype", "rank", "value_tolerance", "gradient_tolerance"),
    [
        (jnp.float64, 1, 1e-10, 1e-7),
        (jnp.float64, 2, 1e-10, 1e-7),
        (jnp.float32, 2, 1e-4, 1e-4),
        (jnp.bfloat16, 2, 1e-4, 2e-2),
    ],
)
def test_values_and_gradients(dtype, rank, value_tolerance, gradient_tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        rounded = [[jnp.asarray(x, dtype) for x in layers] for layers in _layers()]
        students, teachers = [
            [np.asarray(x, float) for x in layers] for layers in rounded
        ]
        value, gradients, by_teacher = measure(students, teachers, dtype, rank)
    assert value.shape == (BATCH,)
    assert value.dtype == jnp.promote_types(dtype, jnp.float32)
    assert all((g == 0).all() for g in by_teacher)
    expected = _expected(students, teachers, rank)
    np.testing.assert_allclose(value, expected, value_tolerance)
    for layer, gradient in enumerate(gradients):

        def loss(x, layer=layer):
            changed = [x if i == layer else s for i, s in enumerate(students)]
            return WEIGHTS @ _expected(changed, teachers, rank)

        slope = reference.gradient(loss, students[layer])
        np.testing.assert_allclose(
            gradient.astype(float),
            slope,
            gradient_tolerance,
            gradient_tolerance * np.abs(slope).max(),
        )


def _spoilt(edge):
    students, teachers = _layers()
    if edge == "zero student":
        students[0][:], students[1][1] = 0, 0
    if edge == "zero teacher":
        teachers[0][0], teachers[1][:] = 0, 0
    if edge == "all zero":
        students, teachers = ([0 * x for x in xs] for xs in (students, teachers))
    if edge == "equal singular values":
        students[0][:] = np.eye(12, 6).reshape(2, 6, 6).transpose(0, 2, 1)[:, :, :4]
    if edge == "constant":
        students[1][:], teachers[0][:] = 3, 2
    if edge == "equal columns":
        students[0][:, :, 1] = students[0][:, :, 0]
        teachers[1][:, :, 1] = teachers[1][:, :, 0]
    return students, teachers


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "edge",
    [
        "zero student",
        "zero teacher",
        "all zero",
        "equal singular values",
        "constant",
        "equal columns",
    ],
)
def test_gradients_are_finite(edge, dtype):
    value, gradients, _ = measure(*_spoilt(edge), dtype)
    assert np.isfinite(value).all()
    for gradient in gradients:
        assert np.isfinite(gradient.astype(float)).all()
        assert np.abs(gradient.astype(float)).max() < 100


def test_scale_and_the_order_of_rows_do_not_matter():
    students, teachers = _layers()
    # Channels and heights are the matrix's rows; scale leaves its directions alone.
    changed = measure(
        [1e-3 * students[0][:, ::-1, :, ::-1], 1e15 * students[1][..., ::-1]],
        [-teachers[0][..., ::-1], 40 * teachers[1]],
    )
    plain = measure(students, teachers)
    np.testing.assert_allclose(changed[0], plain[0], 2e-4)


def test_equal_networks_cost_nothing():
    """Rows of zeros, which the larger map of the teacher has, change nothing."""
    students, teachers = _layers()
    for s, t in zip(students, teachers, strict=True):
        rows = np.moveaxis(s, 2, 3).reshape(BATCH, -1, s.shape[2])
        padded = np.zeros((BATCH, t.shape[1] * t.shape[3], s.shape[2]))
        padded[:, : rows.shape[1]] = rows
        t[:] = np.moveaxis(padded.reshape(BATCH, t.shape[1], t.shape[3], -1), 2, 3)
    value, gradients, _ = measure(students, teachers)
    np.testing.assert_allclose(value, 0, atol=1e-9)
    assert all(np.abs(g).max() < 1e-5 for g in gradients)


def test_layers_that_do_not_fit():
    students, teachers = _layers()
    for few in ([students[:1], teachers[:1]], [students, teachers[:1]]):
        with pytest.raises(ValueError, match="at least two, and a positive rank"):
            losses.kdsvd(*few)
    with pytest.raises(ValueError, match="width 5 and teacher map 6, expected equal"):
        losses.kdsvd(students[::-1], teachers)
    with pytest.raises(ValueError, match="at least the rank, 6"):
        losses.kdsvd(students, teachers, rank=6)
