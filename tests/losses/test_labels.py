"""Labels that are none of the classes make their rows NaN, in every loss of labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import losses

CLASSES = 10
RNG = np.random.default_rng(0)
STUDENT, TEACHER = (
    jnp.asarray(RNG.normal(size=(4, CLASSES)), jnp.float32) for _ in range(2)
)
T = {"temperature": 2.0}
# name -> a loss of (student, labels), one value a row; those in MASKED take ``where``.
MASKED = {
    "cross_entropy": losses.cross_entropy,
    "cross_entropy, smoothed": lambda s, y, **k: losses.cross_entropy(
        s, y, label_smoothing=0.1, **k
    ),
    "dkd": lambda s, y, **k: losses.dkd(s, TEACHER, y, alpha=1, beta=2, **T, **k),
    "target_class_kd": lambda s, y, **k: losses.target_class_kd(
        s, TEACHER, y, **T, **k
    ),
    "non_target_class_kd": lambda s, y, **k: losses.non_target_class_kd(
        s, TEACHER, y, **T, **k
    ),
    "rld": lambda s, y, **k: losses.rld(s, TEACHER, y, alpha=1, beta=2, **T, **k),
    "sample_confidence": lambda s, y, **k: losses.sample_confidence(
        s, TEACHER, y, **T, **k
    ),
    "masked_correlation": lambda s, y, **k: losses.masked_correlation(
        s, TEACHER, y, **T, **k
    ),
    "review_correct": lambda s, y, **k: losses.review_correct(s, y, **T, **k),
    "label_revision": lambda s, y, **k: losses.label_revision(s, TEACHER, y, **k),
}
PLAIN = {
    "swap_labels": lambda s, y: losses.kd(s, losses.swap_labels(TEACHER, y), **T),
    "revise_labels": lambda s, y: jnp.sum(
        losses.revise_labels(TEACHER, y) * s, axis=-1
    ),
    "arcface": lambda s, y: losses.arcface(jnp.tanh(s), y),
    "chunked_cross_entropy": lambda s, y: losses.chunked_cross_entropy(
        s, jnp.eye(CLASSES), y, chunks=2
    ),
}


def rows(loss, labels):
    """Returns the values by row, and the gradient of their sum by row."""
    labels = jnp.asarray(labels)
    return jax.jit(
        lambda s: (loss(s, labels), jax.grad(lambda s: jnp.sum(loss(s, labels)))(s))
    )(STUDENT)


@pytest.mark.parametrize("name", MASKED | PLAIN)
def test_rows_of_no_class_are_nan(name):
    loss = (MASKED | PLAIN)[name]
    value, gradient = rows(loss, [3, 99, CLASSES, -1])
    good, slope = rows(loss, [3, 0, 0, 0])
    assert np.isfinite(good).all() and np.isfinite(slope).all()
    np.testing.assert_array_equal(np.isnan(value), [False, True, True, True])
    # Not of classes that the loss masks.
    np.testing.assert_array_equal(np.isnan(gradient).any(axis=1)[1:], [True] * 3)
    if name != "label_revision":  # whose rows are scaled by how many are right
        np.testing.assert_allclose(value[0], good[0], rtol=1e-6)
        np.testing.assert_allclose(gradient[0], slope[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("mark", [255, -1])
def test_rows_left_out_may_hold_anything(name, mark):
    where = jnp.array([True, False, True, False])
    masked = lambda s, y: MASKED[name](s, y, where=where)  # noqa: E731
    value, gradient = rows(masked, [3, mark, 9, mark])
    wanted, slope = rows(masked, [3, 0, 9, 0])
    np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(gradient, slope)
    assert np.isfinite(gradient).all() and (value[1::2] == 0).all()
    assert (gradient[1::2] == 0).all()


def test_cross_entropy_is_that_of_optax_over_maps():
    z = jnp.asarray(RNG.normal(size=(2, 3, 4, 5)), jnp.bfloat16)
    labels = jnp.asarray(RNG.integers(0, 5, (2, 3, 4)))
    value = losses.cross_entropy(z, labels)
    wide = z.astype(jnp.float32)
    wanted = optax.softmax_cross_entropy_with_integer_labels(wide, labels)
    np.testing.assert_array_equal(value, wanted)
    smooth = 0.8 * jax.nn.one_hot(labels, 5) + 0.04
    wanted = optax.softmax_cross_entropy(wide, smooth)
    value = losses.cross_entropy(z, labels, label_smoothing=0.2)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    marked = labels.at[0, 1].set(255)
    assert np.isnan(losses.cross_entropy(z, marked)[0, 1]).all()
    value = losses.cross_entropy(z, marked, where=marked < 255)
    assert (value[0, 1] == 0).all() and np.isfinite(value).all()


def test_truths_out_of_range_of_other_losses():
    x = jnp.full((3, 4), 0.5)
    value = losses.correlation_contrastive(x, x + 0.1, jnp.array([0, 1, 2]))
    np.testing.assert_array_equal(np.isnan(value), [False, False, True])
    text = losses.character_cross_entropy(
        jnp.zeros((2, 2, 4)),
        jnp.array([[0, 4], [0, 4]]),
        jnp.array([[1, 0], [1, 1]]) > 0,
    )
    np.testing.assert_array_equal(np.isnan(text), [False, True])
    masks = jnp.stack([jnp.eye(4), 255 * jnp.eye(4)])
    value = losses.structure_loss(jnp.zeros((2, 4, 4)), masks)
    np.testing.assert_array_equal(np.isnan(value), [False, True])
    log_p = jnp.log(jnp.full((2, 3), 0.5))
    levels = [[0], [1], [2]]
    value = losses.level_losses_of_marginals(
        log_p, log_p, jnp.array([[0, 2, 1], [1, 2, 3]]), levels
    )
    np.testing.assert_array_equal(np.isnan(value), [False, False, True])
    gradient = jax.grad(
        lambda p: losses.level_losses_of_marginals(
            p, p, jnp.array([[0, 2, 1], [9, 9, 9]]), levels, where=jnp.array([1, 0]) > 0
        ).sum()
    )(log_p)
    assert np.isfinite(gradient).all()
