"""CRRCD, AIRD, SFTN and GDRD losses against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import feature_reference
from tests.losses import order_reference as reference

BATCH, FEATURES = 5, 3
LABELS = np.array([0, 1, 0, 2, 1])


def _rows(seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2, BATCH, FEATURES))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _compare(loss, formula, s, t):
    value, (gradient, of_teacher) = jax.jit(
        jax.value_and_grad(lambda s, t: loss(s, t).sum(), argnums=(0, 1))
    )(jnp.float32(s), jnp.float32(t))
    np.testing.assert_allclose(value, formula(s, t).sum(), 1e-4)
    slope = feature_reference.gradient(lambda s: formula(s, t).sum(), s)
    np.testing.assert_allclose(gradient, slope, 1e-3, 1e-4 * np.abs(slope).max())
    return of_teacher


@pytest.mark.parametrize("labels", [None, LABELS])
def test_relation_contrast(labels):
    of_teacher = _compare(
        lambda s, t: losses.relation_contrast(s, t, labels=labels),
        lambda s, t: reference.relation_contrast(s, t, labels),
        *_rows(),
    )
    assert (of_teacher == 0).all()


def test_instance_contrast():
    s, t = _rows()
    _compare(
        lambda s, t: losses.instance_contrast(s, t, LABELS, temperature=0.3),
        lambda s, t: reference.instance_contrast(s, t, LABELS, 0.3),
        3 * s,
        t,
    )
    # With one class there is nothing to tell an image from.
    assert (losses.instance_contrast(s, t, 0 * LABELS) == 0).all()


@pytest.mark.slow
def test_contrast_prefers_the_teachers_own_arrangement():
    s, t = _rows()
    for loss in (
        losses.relation_contrast,
        lambda s, t: losses.instance_contrast(s, t, np.arange(BATCH)).mean(),
    ):
        assert loss(t, t) < loss(s, t)
        assert loss(t, t) < loss(t[::-1], t)


def test_equal_rows_have_finite_gradients():
    s, _ = _rows()
    s[1] = s[0]
    for loss in (
        losses.relation_contrast,
        lambda s, t: losses.instance_contrast(s, t, LABELS).sum(),
    ):
        assert jnp.isfinite(jax.grad(loss)(jnp.float32(s), jnp.float32(s))).all()


def test_relation_nce():
    v, anchors = _rows()
    rng = np.random.default_rng(1)
    entries = rng.normal(size=(BATCH, 4, FEATURES))
    where = ~np.eye(BATCH, dtype=bool)
    _compare(
        lambda v, anchors: losses.relation_nce(
            v,
            anchors,
            entries,
            normalizer=7.0,
            num_examples=20,
            temperature=0.5,
            where=where,
        ),
        lambda v, anchors: reference.relation_nce(
            v, anchors, entries, 7.0, 20, 0.5, where
        ),
        v,
        anchors,
    )
    scores = [
        np.exp(feature_reference._unit(v[b] - a) @ feature_reference._unit(m - a) / 0.5)
        for b in range(BATCH)
        for a in anchors
        for m in entries[b]
    ]
    found = losses.relation_normalizer(
        v, anchors, entries, num_examples=20, temperature=0.5
    )
    np.testing.assert_allclose(found, 20 * np.mean(scores), 1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_branch_divergence(temperature):
    rng = np.random.default_rng(0)
    q, p = rng.normal(0, 2, (2, 4, 5))

    def both(q, p, **options):
        return losses.branch_divergence(q, p, temperature=temperature, **options)

    def formula(q, p):
        return reference.branch_divergence(q, p, temperature)

    of_teacher = _compare(both, formula, q, p)
    slope = feature_reference.gradient(lambda p: formula(q, p).sum(), p)
    np.testing.assert_allclose(of_teacher, slope, 1e-3, 1e-4)
    alone = _compare(lambda q, p: both(q, p, teacher_gradient=False), formula, q, p)
    assert (alone == 0).all()


def test_relative_error():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 2, 3, 3, 4))
    assert (_compare(losses.relative_error, reference.relative_error, s, t) == 0).all()
    np.testing.assert_allclose(losses.relative_error(0 * t, t), 1.0, 1e-6)
    assert losses.relative_error(0 * t, 0 * t) == 0


def test_errors_of_shapes():
    s, t = _rows()
    with pytest.raises(ValueError, match="three or more"):
        losses.relation_contrast(s[:2], t[:2])
    with pytest.raises(ValueError, match="one per row"):
        losses.instance_contrast(s, t, LABELS[1:])
    with pytest.raises(ValueError, match="at least one negative"):
        losses.relation_nce(s, t, s[:, None], normalizer=1.0, num_examples=9)
