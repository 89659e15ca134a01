"""The contrastive loss against its formula, and the memory it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import feature_reference as reference

BATCH, NEGATIVES, FEATURES, EXAMPLES = 3, 5, 4, 20
SETTINGS = {"num_examples": EXAMPLES, "temperature": 0.3}
Z = 40.0
WEIGHTS = np.array([1.0, -0.5, 2.0])


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _embeddings(seed=0):
    rng = np.random.default_rng(seed)
    shapes = (BATCH, FEATURES), (BATCH, 1 + NEGATIVES, FEATURES)
    return [_unit(rng.normal(size=shape)) for shape in shapes]


@jax.jit
def _measure_jitted(v, m, z):
    value, pullback = jax.vjp(
        lambda v, m, z: losses.crd(v, m, normalizer=z, **SETTINGS), v, m, z
    )
    return value, *pullback(jnp.asarray(WEIGHTS, value.dtype))


def measure(v, m, z=Z, dtype=jnp.float32):
    """Measures the loss: (value, gradient by embedding, by entry, by normalizer)."""
    arrays = (jnp.asarray(x, dtype) for x in (v, m, z))
    return jax.device_get(_measure_jitted(*arrays))


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(jnp.float64, 1e-12, 1e-8), (jnp.float32, 1e-5, 1e-5), (jnp.bfloat16, 1e-5, 1e-2)],
)
def test_values_and_gradients(dtype, value_tolerance, gradient_tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        v, m = (np.asarray(jnp.asarray(x, dtype), float) for x in _embeddings())
        value, gradient, *constant = measure(v, m, dtype=dtype)
    assert value.shape == (BATCH,)
    assert value.dtype == jnp.promote_types(dtype, jnp.float32)
    assert all((g == 0).all() for g in constant)

    def formula(v):
        return reference.crd(v, m, Z, EXAMPLES, SETTINGS["temperature"])

    np.testing.assert_allclose(value, formula(v), value_tolerance)
    slope = reference.gradient(lambda v: WEIGHTS @ formula(v), v)
    np.testing.assert_allclose(
        gradient.astype(float), slope, gradient_tolerance, gradient_tolerance
    )


def test_the_normalizer_makes_scores_average_to_chance():
    v, m = _embeddings()
    normalizer = jax.jit(lambda v, m: losses.crd_normalizer(v, m, **SETTINGS))
    z = normalizer(jnp.float32(v), jnp.float32(m))
    scores = np.exp(np.einsum("bf,bkf->bk", v, m) / SETTINGS["temperature"])
    np.testing.assert_allclose(scores.mean() / z, 1 / EXAMPLES, 1e-5)


def test_order_of_negatives_and_rotation():
    v, m = _embeddings()
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    order = [0, *(1 + rng.permutation(NEGATIVES))]
    plain, changed = measure(v, m), measure(v @ turn, m[:, order] @ turn)
    np.testing.assert_allclose(changed[0], plain[0], 1e-5)
    np.testing.assert_allclose(changed[1], plain[1] @ turn, 1e-4, 1e-5)


@pytest.mark.parametrize("size", [0.0, 1e3, -1e3])
def test_embeddings_of_any_length_are_finite(size):
    """The exponential of 1e3 / T overflows; its logarithm does not."""
    v, m = _embeddings()
    value, gradient, *_ = measure(size * np.abs(v), np.abs(m))
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    value, gradient, *_ = measure(size * v, 0 * m)
    assert np.isfinite(value).all() and (gradient == 0).all()


def test_the_loss_tells_the_positive_from_the_negatives():
    v, m = _embeddings()
    m[:, 0] = v
    right = measure(v, m)[0]
    for k in range(1, 1 + NEGATIVES):
        wrong = measure(v, m[:, [k, *(j for j in range(1 + NEGATIVES) if j != k)]])[0]
        assert (wrong > right).all()


@jax.jit
def _update(memory, v, index):
    return losses.crd_update(memory, v, index, momentum=0.25)


def test_the_memory_moves_by_its_momentum():
    rng = np.random.default_rng(2)
    memory, v = _unit(rng.normal(size=(EXAMPLES, FEATURES))), _embeddings()[0]
    index = np.array([7, 0, 19])
    new = _update(jnp.float32(memory), jnp.float32(v), index)
    expected = np.array(memory)
    expected[index] = _unit(0.25 * memory[index] + 0.75 * v)
    np.testing.assert_allclose(new, expected, 1e-5, 1e-6)
    others = np.setdiff1d(np.arange(EXAMPLES), index)
    np.testing.assert_array_equal(new[others], np.float32(memory)[others])


def test_the_memory_keeps_its_type_and_bears_zeros():
    memory = np.zeros((EXAMPLES, FEATURES), jnp.bfloat16)
    v = jnp.float32(_embeddings()[0]).at[1].set(0)
    new = _update(memory, v, np.array([1, 2, 3]))
    assert new.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(new[1]), v[0], 1e-2)
    assert (new[2] == 0).all()
    slope = jax.jit(jax.grad(lambda v: _update(memory, v, np.arange(3)).sum()))(v)
    assert (slope == 0).all()


@pytest.mark.parametrize(
    ("embeddings", "entries"),
    [((3, 4), (3, 1, 4)), ((3, 4), (1, 5, 4)), ((3, 4), (3, 5, 3)), ((4,), (3, 5, 4))],
)
def test_shapes_that_do_not_fit(embeddings, entries):
    arrays = np.ones(embeddings), np.ones(entries)
    with pytest.raises(ValueError, match="at least one negative"):
        losses.crd(*arrays, normalizer=1.0, num_examples=9)
    with pytest.raises(ValueError, match="at least one negative"):
        losses.crd_normalizer(*arrays, num_examples=9)


def test_shapes_of_the_memory():
    for v, index in (((3, 5), (3,)), ((3, 4), (1,))):
        with pytest.raises(ValueError, match=r"expected \[examples, features\]"):
            losses.crd_update(np.ones((9, 4)), np.ones(v), np.zeros(index, int))
