"""The losses of correlation distillation against float64 NumPy, and at their edges."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxkd import losses
from jaxkd.losses import frame_correlation

RNG = np.random.default_rng(0)
AUDIO, VIDEO = RNG.normal(size=(2, 3, 5, 7)) * 3
C, S = RNG.uniform(0.05, 0.95, (2, 3, 5))
LABELS = np.array([0.0, 1.0, 1.0])
WHERE = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)


def reference_divergence(p, q, kind):
    """The spec's section 3, of float64 probabilities."""
    if kind == "js":
        m = (p + q) / 2
        return (p * np.log2(p / m) + q * np.log2(q / m)).sum(-1) / 2
    one, other = p * np.log(p / q + 1e-10), q * np.log(q / p + 1e-10)
    return (one.mean(-1) + other.mean(-1)) / 2


def reference_contrastive(c, s, y, margin, where):
    distance = [
        np.sum((a - b)[w] ** 2) ** 0.5 for a, b, w in zip(c, s, where, strict=True)
    ]
    d = 1 / (1 + np.exp(-np.array(distance)))
    return (1 - y) * d**2 + y * np.maximum(0, margin - d) ** 2


@pytest.mark.parametrize("kind", frame_correlation.KINDS)
def test_divergence_is_the_formula(kind):
    mine = losses.teacher_divergence(
        jax.nn.log_softmax(jnp.array(AUDIO)), jax.nn.log_softmax(VIDEO), kind=kind
    )
    expected = reference_divergence(softmax(AUDIO, -1), softmax(VIDEO, -1), kind)
    np.testing.assert_allclose(mine, expected, rtol=2e-5)


@pytest.mark.parametrize("kind", frame_correlation.KINDS)
def test_divergence_of_underflown_and_one_hot_posteriors(kind):
    p, q = jnp.array([80.0, 0, 0, -90]), jnp.array([0.0, 85, 0, 3])
    log_p, log_q = log_softmax(np.float64(p)), log_softmax(np.float64(q))
    wide_p, wide_q = np.exp(log_p), np.exp(log_q)
    mine = losses.teacher_divergence(log_p, log_q, kind=kind)
    if kind == "jeffreys_mean":
        expected = ((wide_p - wide_q) * (log_p - log_q)).mean() / 2
        np.testing.assert_allclose(mine, expected, rtol=1e-6)
    else:
        np.testing.assert_allclose(mine, 1.0, rtol=1e-6)
    one_hot = jnp.log(jnp.eye(4))
    divergence = losses.teacher_divergence(one_hot[0], one_hot[1], kind=kind)
    assert np.isfinite(divergence)
    assert divergence >= 1.0 or kind == "js"
    same = losses.teacher_divergence(one_hot[0], one_hot[0], kind=kind)
    assert same == 0
    gradient = jax.grad(
        lambda x: losses.teacher_divergence(x, one_hot[1], kind=kind).sum()
    )(one_hot[0])
    assert np.isfinite(gradient).all()
    # The loss takes the target this makes: clipped to 0.
    value = losses.correlation_distillation(jnp.array(0.5), 1 - divergence)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)


def test_correlation_and_its_gradient_are_the_formula():
    def reference(a, v):
        cos = (a * v).sum(-1) / np.sqrt((a**2).sum(-1) * (v**2).sum(-1))
        return (cos + 1) / 2

    np.testing.assert_allclose(
        losses.audio_visual_correlation(AUDIO, VIDEO), reference(AUDIO, VIDEO), 1e-5
    )
    _, slope = jax.jvp(
        lambda a: losses.audio_visual_correlation(a, jnp.array(VIDEO)).sum(),
        (jnp.array(AUDIO),),
        (jnp.array(VIDEO + 1),),
    )
    step = 1e-6
    moved = [reference(AUDIO + e * (VIDEO + 1), VIDEO).sum() for e in (step, -step)]
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-4)


def test_correlation_at_extremes():
    zero, tiny, huge = np.zeros(4), np.full(4, 1e-30), np.full(4, 1e30)
    rows = jnp.array(np.stack([zero, tiny, huge]), jnp.float32)
    other = jnp.array([1.0, 1, 1, 1])
    value, gradient = jax.value_and_grad(
        lambda x: losses.audio_visual_correlation(x, jnp.tile(other, (3, 1))).sum()
    )(rows)
    np.testing.assert_allclose(value, 0.5 + 1 + 1, rtol=1e-6)
    assert np.isfinite(gradient).all()
    half = losses.audio_visual_correlation(jnp.ones(3, jnp.bfloat16), -jnp.ones(3))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, 0, atol=1e-6)


def test_distillation_is_the_formula_and_never_moves_its_target():
    expected = -S * np.log(C) - (1 - S) * np.log(1 - C)
    np.testing.assert_allclose(losses.correlation_distillation(C, S), expected, 1e-5)
    by_c, by_s = jax.grad(
        lambda c, s: losses.correlation_distillation(c, s).sum(), (0, 1)
    )(jnp.array(C), jnp.array(S))
    np.testing.assert_allclose(by_c, (C - S) / (C * (1 - C)), rtol=1e-4)
    assert not by_s.any()
    edge = jnp.array([0.0, 1.0, 0.0, 1.0])
    target = jnp.array([1.0, 0.0, -3.0, 7.0])
    value, gradient = jax.value_and_grad(
        lambda c: losses.correlation_distillation(c, target).sum()
    )(edge)
    np.testing.assert_allclose(value, -2 * np.log(1e-7), rtol=1e-2)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("margin", [1.0, 0.8])
@pytest.mark.parametrize("masked", [False, True])
def test_contrastive_is_the_formula(margin, masked):
    where = WHERE if masked else np.ones_like(WHERE)
    # What a masked frame holds does not matter, even if it is no number.
    c = np.where(where, C, np.nan)

    def loss(c):
        return losses.correlation_contrastive(
            c, S, LABELS, margin=margin, where=where if masked else None
        )

    expected = reference_contrastive(c, S, LABELS, margin, where)
    np.testing.assert_allclose(loss(c), expected, rtol=1e-5)
    gradient = jax.grad(lambda c: loss(c).sum())(jnp.array(c))
    assert np.isfinite(gradient).all()
    assert not gradient[~where].any()
    step, direction = 1e-5, np.where(where, RNG.normal(size=C.shape), 0)
    ends = [
        reference_contrastive(c + e * direction, S, LABELS, margin, where).sum()
        for e in (step, -step)
    ]
    numeric = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), numeric, rtol=2e-3)


def test_contrastive_where_the_root_is_zero_and_where_a_clip_is_empty():
    c = jnp.full((2, 4), 0.25)
    where = jnp.array([[True] * 4, [False] * 4])
    value, gradient = jax.value_and_grad(
        lambda x: losses.correlation_contrastive(
            x, c, jnp.array([0, 0]), where=where
        ).sum()
    )(c)
    np.testing.assert_allclose(value, 0.25, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_wrong_shapes_and_kinds_are_refused():
    with pytest.raises(ValueError, match="kind is 'kl', expected one of"):
        losses.teacher_divergence(C, S, kind="kl")
    with pytest.raises(ValueError, match="expected the same"):
        losses.teacher_divergence(C, S[:2])
    with pytest.raises(ValueError, match="expected the same"):
        losses.audio_visual_correlation(C, S[..., :2])
    with pytest.raises(ValueError, match=r"labels have shape \(2,\), expected \(3,\)"):
        losses.correlation_contrastive(C, S, LABELS[:2])
    with pytest.raises(ValueError, match="where has shape"):
        losses.correlation_contrastive(C, S, LABELS, where=WHERE[:2])


def test_examples_of_the_docstrings_run():
    assert doctest.testmod(frame_correlation).failed == 0
