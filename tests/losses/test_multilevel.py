"""Multi-level logit distillation against its formula, matrix by matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import feature_reference, logit_reference

BATCH, CLASSES = 6, 5
TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)
MASKED = ("official", "per_sample")


def _softmax(z, temperature=1.0):
    return np.exp([logit_reference.log_softmax(row / temperature) for row in z])


def _correlations(s, t, temperature):
    """Squared differences ``[batch, batch]`` and ``[classes, classes]``."""
    p, q = _softmax(t, temperature), _softmax(s, temperature)
    return (q @ q.T - p @ p.T) ** 2, (q.T @ q - p.T @ p) ** 2


def _below_median(x):
    return x <= np.percentile(x, 50)


def reference_noaug(s, t, masked):
    p = _softmax(t)
    rows, classes = _below_median(p.max(axis=1)), _below_median(p.sum(axis=0))
    total = 0.0
    for temperature in TEMPERATURES:
        kd = logit_reference.kd(s, t, temperature)
        by_batch, by_class = _correlations(s, t, temperature)
        if masked == "official":
            total += rows.mean() * kd.mean()
            total += rows.mean() * by_batch.sum() / BATCH
            total += classes.mean() * by_class.sum() / CLASSES
        else:
            total += (kd[rows].sum() + by_batch[rows].sum()) / BATCH
            total += by_class[classes].sum() / CLASSES
    return total


def reference_mlkd(s, t, s_strong, t_strong, masked):
    total = reference_noaug(s, t, masked)
    for temperature in TEMPERATURES:
        slip = masked == "official" and temperature in (2.0, 6.0)
        pair = (s, t) if slip else (s_strong, t_strong)
        total += logit_reference.kd(*pair, temperature).mean()
    return total


def _logits(seed=0):
    """Student and teacher of the weak view, then of the strong one."""
    return np.random.default_rng(seed).normal(0, 2, (4, BATCH, CLASSES))


@jax.jit
def _measure_jitted(*logits):
    measured = {}
    for masked in MASKED:
        for name, count in (("mlkd_noaug", 2), ("mlkd", 4)):
            loss = getattr(losses, name)
            measured[name, masked] = jax.value_and_grad(
                lambda *z, loss=loss, masked=masked: loss(*z, masked=masked),
                argnums=tuple(range(count)),
            )(*logits[:count])
    return measured


def measure(logits, dtype=jnp.float32):
    """Measures: (name, masked) -> (value, gradients by each of the logits)."""
    return jax.device_get(_measure_jitted(*(jnp.asarray(z, dtype) for z in logits)))


@pytest.fixture(scope="module")
def plain():
    return measure(_logits())


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(jnp.float64, 1e-12, 1e-8), (jnp.float32, 1e-5, 1e-5), (jnp.bfloat16, 1e-5, 1e-2)],
)
def test_values_and_gradients(dtype, value_tolerance, gradient_tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        logits = [np.asarray(jnp.asarray(z, dtype), float) for z in _logits()]
        measured = measure(logits, dtype)
    for (name, masked), (value, gradients) in measured.items():
        formula = {"mlkd": reference_mlkd, "mlkd_noaug": reference_noaug}[name]
        logits = logits[: len(gradients)] if name == "mlkd_noaug" else logits
        inputs = list(logits[: len(gradients)])
        assert value.shape == ()
        assert value.dtype == jnp.promote_types(dtype, jnp.float32)
        expected = formula(*inputs, masked)
        np.testing.assert_allclose(value, expected, value_tolerance)
        for side in range(0, len(inputs), 2):

            def loss(z, side=side, inputs=inputs, formula=formula, masked=masked):
                changed = [z if i == side else x for i, x in enumerate(inputs)]
                return formula(*changed, masked)

            slope = feature_reference.gradient(loss, inputs[side])
            np.testing.assert_allclose(
                gradients[side].astype(float),
                slope,
                gradient_tolerance,
                gradient_tolerance,
                err_msg=f"{name} {masked} {side}",
            )
            assert (gradients[side + 1] == 0).all()


def test_correlations():
    s, t = _logits()[:2]
    by_batch, by_class = _correlations(s, t, 3.0)
    for loss, expected in (
        (losses.batch_correlation, by_batch),
        (losses.class_correlation, by_class),
    ):
        got = jax.jit(loss)(jnp.float32(s), jnp.float32(t), temperature=3.0)
        np.testing.assert_allclose(got, expected.sum(axis=1), 1e-4)


def test_order_of_rows_and_classes_and_shift(plain):
    rng = np.random.default_rng(1)
    rows, classes = rng.permutation(BATCH), rng.permutation(CLASSES)
    logits = _logits()
    changed = measure(logits[:, rows][:, :, classes] + rng.normal(size=(4, BATCH, 1)))
    for key, (value, gradients) in plain.items():
        np.testing.assert_allclose(changed[key][0], value, 1e-5)
        np.testing.assert_allclose(
            changed[key][1][0], gradients[0][rows][:, classes], 1e-3, 1e-5
        )


def test_equal_logits_cost_nothing():
    logits = _logits()
    for value, gradients in measure(logits[[1, 1, 3, 3]]).values():
        np.testing.assert_allclose(value, 0, atol=1e-5)
        np.testing.assert_allclose(gradients[0], 0, atol=1e-5)


@pytest.mark.parametrize("edge", ["zero", "equal rows", "extreme"])
def test_gradients_are_finite(edge):
    logits = _logits()
    if edge == "zero":
        logits = 0 * logits
    if edge == "equal rows":
        logits[:] = logits[:, :1]
    if edge == "extreme":
        logits = 1e4 * np.sign(logits)
    for dtype in (jnp.float32, jnp.bfloat16):
        for value, gradients in measure(logits, dtype).values():
            assert np.isfinite(value)
            assert all(np.isfinite(g.astype(float)).all() for g in gradients)


def test_a_confident_row_is_left_out_per_sample():
    """Its own KD does not count; in the official form it does."""
    logits = _logits()
    logits[1, 2, 3] = 12.0  # the teacher is surest of row 2
    moved = np.array(logits)
    moved[0, 2] += [0, 0, 0, 0, 1]
    kd = [logit_reference.kd(z[0], z[1], 4.0)[2] for z in (logits, moved)]
    assert abs(kd[1] - kd[0]) > 0.1
    measured = measure(logits)
    slopes = {masked: measured["mlkd_noaug", masked][1][0][2] for masked in MASKED}
    assert np.abs(slopes["per_sample"]).max() < 0.2 * np.abs(slopes["official"]).max()


def test_arguments_that_do_not_fit():
    z = np.ones((BATCH, CLASSES))
    with pytest.raises(
        ValueError, match="'paper', expected one of official, per_sample"
    ):
        losses.mlkd_noaug(z, z, masked="paper")
    with pytest.raises(
        ValueError, match="'paper', expected one of official, per_sample"
    ):
        losses.mlkd(z, z, z, z, masked="paper")
    with pytest.raises(ValueError, match=r"expected \[batch, classes\]"):
        losses.mlkd_noaug(z[None], z[None], masked="official")
    with pytest.raises(ValueError, match=r"expected \[batch, classes\]"):
        losses.mlkd(z, z, z[None], z[None], masked="official")
    for loss in (losses.batch_correlation, losses.class_correlation):
        with pytest.raises(ValueError, match="teacher_logits has shape"):
            loss(z, z[:1], temperature=1.0)
