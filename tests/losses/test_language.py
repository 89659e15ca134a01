import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.losses import chunked_cross_entropy


def draw(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    hidden = (scale * rng.normal(size=(2, 3, 5))).astype(np.float32)
    table = rng.normal(size=(24, 5)).astype(np.float32)
    return hidden, table, rng.integers(0, 24, (2, 3))


@pytest.mark.parametrize("chunks", [1, 3, 8])
def test_value_and_gradients_are_those_of_all_logits_at_once(chunks):
    hidden, table, targets = draw()

    def whole(hidden, table):
        logits = hidden @ table.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    def parts(hidden, table):
        return chunked_cross_entropy(hidden, table, targets, chunks=chunks)

    np.testing.assert_allclose(
        parts(hidden, table), whole(hidden, table), rtol=1e-5, atol=1e-5
    )
    weights = np.random.default_rng(1).normal(size=(2, 3))
    got, expected = (
        jax.grad(lambda h, t, f=f: jnp.sum(weights * f(h, t)), (0, 1))(hidden, table)
        for f in (parts, whole)
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_stays_finite_where_exponentials_are_not():
    hidden, table, targets = draw(scale=1e4)
    value, gradient = jax.value_and_grad(
        lambda h: jnp.sum(chunked_cross_entropy(h, table, targets, chunks=4))
    )(hidden)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_bfloat16_sums_in_float32():
    hidden, table, targets = draw(scale=0.1)
    got = chunked_cross_entropy(hidden.astype(jnp.bfloat16), table, targets, chunks=4)
    assert got.dtype == jnp.float32
    exact = chunked_cross_entropy(hidden, table, targets)
    np.testing.assert_allclose(got, exact, atol=0.02)


def test_holds_one_chunk_of_the_logits():
    hidden = jax.ShapeDtypeStruct((64, 8), jnp.float32)
    table = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
    targets = jax.ShapeDtypeStruct((64,), jnp.int32)

    def temporaries(chunks):
        def loss(hidden, table, targets):
            return jnp.sum(chunked_cross_entropy(hidden, table, targets, chunks=chunks))

        compiled = jax.jit(jax.grad(loss)).lower(hidden, table, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(16) < temporaries(1) / 3


def test_wrong_shapes_are_named():
    hidden, table, targets = draw()
    with pytest.raises(ValueError, match="5 equal chunks"):
        chunked_cross_entropy(hidden, table, targets, chunks=5)
    with pytest.raises(ValueError, match="expected"):
        chunked_cross_entropy(hidden, table[:, :4], targets)
