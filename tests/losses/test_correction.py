"""The label-correcting baselines against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import logit_reference as reference

CLASSES = 5
ROWS = 9
T = 4.0
BIG = 1e4


def _rows(seed=0):
    rng = np.random.default_rng(seed)
    s, t = rng.normal(0, 2, (2, ROWS, CLASSES))
    y = t.argmax(axis=1)
    y[::2] = (y[::2] + 1) % CLASSES  # the teacher is wrong on five of nine rows
    return s, t, y


def measure(*arrays):
    """The two losses with the student's gradient: name -> (values, gradient)."""
    return jax.device_get(_measure(*arrays))


@jax.jit
def _measure(s, t, y, where=None):

    def correction(s):
        return losses.review_correct(s, y, temperature=T, where=where)

    def revision(s):
        return losses.label_revision(s, t, y, where=where)

    measured = {}
    for name, loss in (("correction", correction), ("revision", revision)):
        value, pullback = jax.vjp(loss, s)
        measured[name] = value, pullback(jnp.ones_like(value))[0]
    return measured


def test_swap_labels_exchanges_two_logits():
    t = np.array([[1.0, 3, 2], [1, 3, 2], [2, 2, 1], [2, 2, 1]])
    y = np.array([0, 1, 1, 2])
    expected = [[3, 1, 2], [1, 3, 2], [2, 2, 1], [1, 2, 2]]
    np.testing.assert_array_equal(reference.swap(t, y), expected)
    for dtype in (jnp.float32, jnp.bfloat16):
        swapped = losses.swap_labels(jnp.asarray(t, dtype), y)
        assert swapped.dtype == dtype
        np.testing.assert_array_equal(np.float32(swapped), expected)


def test_swapped_teacher_is_right_and_holds_the_same_logits():
    _, t, y = _rows()
    swapped = np.asarray(losses.swap_labels(jnp.float32(t), y))
    np.testing.assert_array_equal(swapped, np.float32(reference.swap(t, y)))
    np.testing.assert_array_equal(swapped.argmax(axis=1), y)
    np.testing.assert_array_equal(np.sort(swapped), np.sort(np.float32(t)))


def test_swapping_changes_kd_only_where_the_teacher_is_wrong():
    s, t, y = _rows()
    s, t = jnp.float32(s), jnp.float32(t)

    @jax.jit
    def distil(teacher):
        value, pullback = jax.vjp(lambda s: losses.kd(s, teacher, temperature=T), s)
        return value, pullback(jnp.ones_like(value))[0]

    plain, swapped = distil(t), distil(losses.swap_labels(t, y))
    right = np.argmax(t, axis=1) == y
    for a, b in zip(swapped, plain, strict=True):
        np.testing.assert_array_equal(a[right], b[right])
        assert (a[~right] != b[~right]).any()


def test_self_correction():
    s, t, y = _rows()
    s[3] -= 10  # all negative: the corrected logit is the lower one
    with jax.enable_x64(True):
        value, gradient = measure(jnp.float64(s), jnp.float64(t), y)["correction"]
    np.testing.assert_allclose(
        value, reference.self_correction(s, y, T), rtol=1e-10, atol=1e-12
    )
    slope = reference.row_gradients(
        lambda z: reference.self_correction(z, y, T, source=s), s
    )
    np.testing.assert_allclose(gradient, slope, atol=1e-7)
    assert gradient[3, y[3]] > 0 > gradient[4, y[4]]


def test_label_revision_is_the_batch_loss_with_its_gradient():
    s, t, y = _rows()
    with jax.enable_x64(True):
        value, gradient = measure(jnp.float64(s), jnp.float64(t), y)["revision"]

    def batch_loss(s):
        return reference.label_revision(s, t, y, 0.8, 4.0)

    np.testing.assert_allclose(value.mean(), batch_loss(s), rtol=1e-12)
    slope = np.zeros_like(s)
    for index in np.ndindex(*s.shape):
        step = np.zeros_like(s)
        step[index] = 1e-5
        slope[index] = (batch_loss(s + step) - batch_loss(s - step)) / 2e-5
    np.testing.assert_allclose(gradient / ROWS, slope, atol=1e-8)


@pytest.mark.parametrize("right", [True, False])
def test_label_revision_with_one_part_empty(right):
    s, t, y = _rows()
    y = t.argmax(axis=1) if right else t.argmin(axis=1)
    value, gradient = measure(jnp.float32(s), jnp.float32(t), y)["revision"]
    expected = reference.label_revision(s, t, y, 0.8, 4.0)
    np.testing.assert_allclose(value.mean(), expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("eta", [0.1, 0.8, 0.99])
def test_revised_labels_are_probabilities_topped_by_the_label(eta):
    _, t, y = _rows()
    t[0] = BIG * (np.arange(CLASSES) == (y[0] + 1) % CLASSES)  # sure, and wrong
    revised = losses.revise_labels(jnp.float32(t), y, eta=eta)
    np.testing.assert_allclose(revised, reference.revised(t, y, eta), atol=1e-6)
    np.testing.assert_allclose(revised.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.argmax(revised, axis=1), y)


def test_leading_axes():
    s, t, y = _rows()
    plain = measure(jnp.float32(s), jnp.float32(t), y)
    split = (z.reshape(3, 3, *z.shape[1:]) for z in (jnp.float32(s), jnp.float32(t), y))
    for name, pair in measure(*split).items():
        for a, b in zip(pair, plain[name], strict=True):
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-5, atol=1e-6)


def test_rows_left_out_are_zero_and_not_counted():
    s, t, y = _rows()
    keep = np.array([1, 1, 1, 0, 0, 1, 1, 1, 0], bool)
    spoilt = [jnp.float32(np.where(keep[:, None], z, np.nan)) for z in (s, t)]
    labels = np.where(keep, y, np.resize([-1, 1000, 0], ROWS))
    measured = measure(*spoilt, labels, keep)
    for value, gradient in measured.values():
        assert (value[~keep] == 0).all() and (gradient[~keep] == 0).all()
    np.testing.assert_allclose(
        measured["revision"][0].sum() / keep.sum(),
        reference.label_revision(s[keep], t[keep], y[keep], 0.8, 4.0),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        measured["correction"][0][keep],
        reference.self_correction(s[keep], y[keep], T),
        atol=1e-5,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_logits(dtype):
    rng = np.random.default_rng(4)
    s, t = (jnp.asarray(BIG * z, dtype) for z in rng.choice([-1, 0, 1], (2, 9, 5)))
    y = rng.integers(0, CLASSES, ROWS)
    for name, (value, gradient) in measure(s, t, y).items():
        assert value.dtype == jnp.float32, name
        assert np.isfinite(value).all(), name
        assert np.isfinite(np.asarray(gradient, float)).all(), name
    s64, t64 = np.asarray(s, float), np.asarray(t, float)
    np.testing.assert_allclose(
        measure(s, t, y)["revision"][0].mean(),
        reference.label_revision(s64, t64, y, 0.8, 4.0),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        measure(s, t, y)["correction"][0],
        reference.self_correction(s64, y, T),
        rtol=1e-5,
    )


def test_nothing_flows_back_to_the_teacher():
    s, t, y = _rows()
    s, t = jnp.float32(s), jnp.float32(t)

    @jax.jit
    def by_teacher(t):
        swapped = (losses.swap_labels(t, y) * s).sum()
        return swapped + losses.label_revision(s, t, y).sum()

    assert (jax.grad(by_teacher)(t) == 0).all()


def test_shapes_must_fit():
    s, t, y = _rows()
    column = y[:, None]
    for call in (
        lambda: losses.swap_labels(t, column),
        lambda: losses.review_correct(s, column, temperature=T),
        lambda: losses.revise_labels(t, column),
        lambda: losses.label_revision(s, t, column),
    ):
        with pytest.raises(ValueError, match=r"labels has shape \(9, 1\), expected"):
            call()
    with pytest.raises(ValueError, match="teacher_logits has shape"):
        losses.label_revision(s, t[:1], y)
