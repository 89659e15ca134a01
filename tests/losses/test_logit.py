"""The logit losses against their formulas in float64, and at the edges of a float."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from jaxkd.core.ranges import DIVISOR
from tests.losses import logit_reference as reference

CLASSES = 6
T = 4.0
ROWS = 21  # every batch here has this many rows, to be compiled once


def _reference_rld(mask, alpha_temperature=T):
    return lambda s, t, y: reference.rld(s, t, y, 1.0, 8.0, T, alpha_temperature, mask)


# name -> (loss, reference), each of (student, teacher, labels)
CASES = {
    "kd": (
        lambda s, t, y, where=None: losses.kd(s, t, temperature=T, where=where),
        lambda s, t, y: reference.kd(s, t, T),
    ),
    "target_class_kd": (
        lambda s, t, y, where=None: losses.target_class_kd(
            s, t, y, temperature=T, where=where
        ),
        lambda s, t, y: reference.tckd(s, t, y, T),
    ),
    "non_target_class_kd": (
        lambda s, t, y, where=None: losses.non_target_class_kd(
            s, t, y, temperature=T, where=where
        ),
        lambda s, t, y: reference.mcd(s, t, y, T, "gt_only"),
    ),
    "dkd": (
        lambda s, t, y, where=None: losses.dkd(
            s, t, y, alpha=1.0, beta=8.0, temperature=T, where=where
        ),
        lambda s, t, y: reference.dkd(s, t, y, 1.0, 8.0, T),
    ),
    "sample_confidence": (
        lambda s, t, y, where=None: losses.sample_confidence(
            s, t, y, temperature=T, where=where
        ),
        lambda s, t, y: reference.scd(s, t, y, T),
    ),
    "masked_correlation": (
        lambda s, t, y, where=None: losses.masked_correlation(
            s, t, y, temperature=T, where=where
        ),
        lambda s, t, y: reference.mcd(s, t, y, T, "ge"),
    ),
    "rld": (
        lambda s, t, y, where=None: losses.rld(
            s, t, y, alpha=1.0, beta=8.0, temperature=T, where=where
        ),
        _reference_rld("ge"),
    ),
    "rld, strict mask, two temperatures": (
        lambda s, t, y, where=None: losses.rld(
            s,
            t,
            y,
            alpha=1.0,
            beta=8.0,
            temperature=T,
            alpha_temperature=1.0,
            mask="g",
            where=where,
        ),
        _reference_rld("g", alpha_temperature=1.0),
    ),
}


def _measure(s, t, y, where=None):
    """Every loss with its gradients: name -> (value, by student, by teacher)."""

    def measured(loss):
        value, pullback = jax.vjp(lambda s, t: loss(s, t, y, where), s, t)
        return value, *pullback(jnp.ones_like(value))

    return {name: measured(loss) for name, (loss, _) in CASES.items()}


_measure_jitted = jax.jit(_measure)


def measure(*arrays):
    return jax.device_get(_measure_jitted(*arrays))


def _random_rows(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    s, t = rng.normal(0, 2, (2, rows, CLASSES))
    return s, t, rng.integers(0, CLASSES, rows)


# One row each: name -> (student, teacher, label)
S = (0.3, -1.0, 2.0, 0.5, -0.2, 1.1)
BIG = 1e4
EDGES = {
    "right": (S, (1, 5, 2, 0, -1, 3), 1),
    "label last": (S, (1, 5, 2, 0, -1, 3), 4),
    "teacher constant": (S, (2, 2, 2, 2, 2, 2), 3),
    "one class left": (S, (1, 5, 2, 0, -1, 3), 3),
    "ties": (S, (1, 2, 2, 0, 2, 3), 2),
    "student sure": ((BIG, 0, 0, 1, 0, 0), (1, 5, 2, 0, -1, 3), 0),
    "student sure of another": ((BIG, 0, 0, 1, 0, 0), (1, 5, 2, 0, -1, 3), 1),
    "student denies": ((-BIG, 0, 0, 1, 0, 0), (5, 1, 2, 0, -1, 3), 0),
    "teacher sure": (S, (BIG, 0, 0, 1, 0, 0), 0),
    "teacher sure of another": (S, (BIG, 0, 0, 1, 0, 0), 3),
    "teacher denies": (S, (-BIG, 0, 0, 1, 0, 0), 2),
    "both extreme": (
        (BIG, -BIG, BIG, 0, 0, -BIG),
        (-BIG, BIG, 0, 0, BIG, BIG / 2),
        5,
    ),
    "equal": (S, S, 0),
    "equal and large": ((BIG, -BIG, 9e3, 0, 0, 50),) * 2 + (2,),
    "impossible class": (S, (1, 5, 2, -np.inf, -1, 3), 2),
}
# Rows in which at most one class is left by the mask "ge".
NOTHING_LEFT = ("label last", "teacher constant", "one class left", "teacher denies")


RANDOM = 6


def _edge_rows():
    s, t, y = zip(*EDGES.values(), strict=True)
    return np.array(s, float), np.array(t, float), np.array(y)


@pytest.fixture(scope="module")
def rows():
    """Random rows, then one for each edge."""
    parts = zip(_random_rows(rows=RANDOM), _edge_rows(), strict=True)
    return [np.concatenate(pair) for pair in parts]


def _edges(*names):
    """Positions of the named edges in ``rows``."""
    return [RANDOM + list(EDGES).index(name) for name in names]


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [
        (jnp.float64, 1e-10, 1e-6),
        (jnp.float32, 1e-5, 1e-4),
        # Inside, all is float32: only the returned gradient is rounded.
        (jnp.bfloat16, 1e-5, 1e-2),
    ],
)
def test_values_and_gradients(rows, dtype, value_tolerance, gradient_tolerance):
    with jax.enable_x64(True):
        s, t = (jnp.asarray(z, dtype) for z in rows[:2])
        y = jnp.asarray(rows[2], jnp.int32)
        s64, t64 = (np.asarray(z.astype(jnp.float64)) for z in (s, t))
        measured = measure(s, t, y)
    for name, (_, formula) in CASES.items():
        value, gradient, _ = measured[name]
        assert value.dtype == jnp.promote_types(dtype, jnp.float32), name
        expected = formula(s64, t64, rows[2])
        np.testing.assert_allclose(
            value, expected, rtol=value_tolerance, atol=value_tolerance, err_msg=name
        )
        slope = reference.row_gradients(partial(formula, t=t64, y=rows[2]), s64)
        np.testing.assert_allclose(
            np.asarray(gradient, np.float64),
            slope,
            rtol=gradient_tolerance,
            atol=gradient_tolerance,
            err_msg=name,
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_gradient_where_nothing_is_left(rows, dtype):
    s, t = (jnp.asarray(z, dtype) for z in rows[:2])
    measured = measure(s, t, rows[2])
    for name, (value, gradient, _) in measured.items():
        assert np.isfinite(value).all(), name
        assert np.isfinite(np.asarray(gradient, float)).all(), name
    value, gradient, _ = measured["masked_correlation"]
    assert (value[_edges(*NOTHING_LEFT)] == 0).all()
    assert (gradient[_edges(*NOTHING_LEFT)] == 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_binary_gradients_are_bounded_by_the_temperature(dtype):
    rng = np.random.default_rng(1)
    s, t = jnp.asarray(BIG * rng.choice([-1, 0, 1], (2, ROWS, CLASSES)), dtype)
    measured = measure(s, t, rng.integers(0, CLASSES, ROWS))
    for name in ("target_class_kd", "sample_confidence"):
        value, gradient, _ = measured[name]
        assert np.isfinite(value).all() and value.max() > BIG, name
        assert np.abs(np.asarray(gradient, float)).max() <= T * (1 + 1e-6), name
    for name, (value, gradient, _) in measured.items():
        assert np.isfinite(value).all(), name
        assert np.isfinite(np.asarray(gradient, float)).all(), name


@pytest.mark.parametrize("gap", [BIG, 2.0**32])
def test_a_huge_gap_costs_temperature_times_gap(gap):
    y = np.arange(ROWS) % CLASSES
    label = np.arange(CLASSES) == y[:, None]
    pooled = T**2 * np.log(CLASSES - 1)  # the other classes count together
    sure, denies = np.where(label, 0, -gap), np.where(label, -gap, 0)
    measured = measure(jnp.float32(denies), jnp.float32(BIG * label), y)
    for name in ("target_class_kd", "sample_confidence"):
        np.testing.assert_allclose(measured[name][0], T * gap + pooled, rtol=1e-6)
    measured = measure(jnp.float32(sure), jnp.float32(BIG * ~label), y)
    value, gradient, _ = measured["target_class_kd"]
    np.testing.assert_allclose(value, T * gap - pooled, rtol=1e-6)
    np.testing.assert_allclose(gradient, T * np.where(label, 1, -0.2), rtol=1e-5)


@pytest.mark.parametrize("temperature", [DIVISOR.low, DIVISOR.high])
@pytest.mark.parametrize("name", ["kd", "dkd", "rld"])
def test_temperatures_at_the_ends_of_their_range(name, temperature):
    """In float32, of logits up to 100; beyond them KD is not even finite."""
    rng = np.random.default_rng(0)
    student, teacher = (
        jnp.asarray(rng.uniform(-100, 100, (4, 5)), jnp.float32) for _ in range(2)
    )
    labels = jnp.arange(4)

    def total(student, temperature):
        options = {"temperature": temperature}
        if name == "kd":
            return losses.kd(student, teacher, **options).sum()
        function = getattr(losses, name)
        return function(student, teacher, labels, alpha=1.0, beta=8.0, **options).sum()

    value, gradient = jax.value_and_grad(total)(student, temperature)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    for beyond in (1e-38, 1e30) if name == "kd" else ():
        assert not np.isfinite(total(student, beyond))


def test_equal_logits_cost_nothing(rows):
    _, t, y = rows
    t = jnp.float32(np.where(np.isinf(t), 0, t))
    measured = measure(t, t, y)
    right = np.argmax(t, axis=1) == y
    for name, (value, gradient, _) in measured.items():
        # The confidence part compares different classes when the teacher is wrong.
        same = right if name.startswith(("rld", "sample")) else slice(None)
        assert (value >= -1e-5).all(), name
        np.testing.assert_allclose(value[same], 0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(gradient[same], 0, atol=1e-5, err_msg=name)


def test_two_classes_leave_no_correlation():
    s, t, y = _random_rows()
    with pytest.warns(UserWarning, match="Of two classes one is left"):
        measured = measure(jnp.float32(s[:, :2]), jnp.float32(t[:, :2]), y % 2)
    for name in ("non_target_class_kd", "masked_correlation"):
        value, gradient, _ = measured[name]
        assert (value == 0).all() and (gradient == 0).all(), name
    np.testing.assert_array_equal(measured["dkd"][0], measured["target_class_kd"][0])


def test_an_excluded_class_never_comes_back():
    """However far the other classes lie below the label, it stays excluded."""
    s, t = np.random.default_rng(5).integers(-4, 5, (2, ROWS, CLASSES)) * 512.0
    s[:, 0] = t[:, 0] = 5000
    y = np.zeros(ROWS, int)
    far = -(2.0**32) * (np.arange(CLASSES) > 0)
    near = measure(jnp.float32(s), jnp.float32(t), y)
    lowered = measure(jnp.float32(s + far), jnp.float32(t + far), y)
    for name in ("non_target_class_kd", "masked_correlation"):
        assert (near[name][0] > 0).any()
        for a, b in zip(lowered[name], near[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_rld_is_dkd_where_the_teacher_is_right():
    s, t, y = _random_rows()
    t[np.arange(ROWS), y] = t.max(axis=1) + np.linspace(1e-3, 5, ROWS)
    measured = measure(jnp.float32(s), jnp.float32(t), y)
    for got, wanted in (
        ("rld", "dkd"),
        ("sample_confidence", "target_class_kd"),
        ("masked_correlation", "non_target_class_kd"),
    ):
        for a, b in zip(measured[got], measured[wanted], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=got)


def test_closed_form_gradients():
    s, t, y = _random_rows()
    with jax.enable_x64(True):
        measured = measure(jnp.float64(s), jnp.float64(t), y)
    label = np.arange(CLASSES) == y[:, None]

    def softmax(z, keep):
        p = np.where(keep, np.exp(z / T), 0)
        return p / np.maximum(p.sum(axis=1, keepdims=True), 1e-300)

    everything = np.ones_like(label)
    confidence = softmax(t, everything).max(axis=1, keepdims=True)
    label_probability = softmax(s, everything)[label][:, None]
    expected = T * (confidence - label_probability) * (softmax(s, ~label) - label)
    np.testing.assert_allclose(measured["sample_confidence"][1], expected, atol=1e-12)

    keep = t < t[label][:, None]
    expected = np.where(
        keep.sum(axis=1, keepdims=True) > 1,
        T * (softmax(s, keep) - softmax(t, keep)),
        0,
    )
    gradient = measured["masked_correlation"][1]
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    assert (np.asarray(gradient)[~keep] == 0).all()


def test_the_teacher_gets_no_gradient(rows):
    for name, (_, _, gradient) in measure(*map(jnp.float32, rows[:2]), rows[2]).items():
        assert (gradient == 0).all(), name


def test_order_and_shift_of_the_logits_do_not_matter():
    s, t, y = _random_rows()
    order = np.random.default_rng(2).permutation(CLASSES)
    shift = np.random.default_rng(3).normal(0, 3, (2, ROWS, 1))
    with jax.enable_x64(True):
        plain = measure(jnp.float64(s), jnp.float64(t), y)
        permuted = measure(
            jnp.float64(s[:, order]), jnp.float64(t[:, order]), np.argsort(order)[y]
        )
        shifted = measure(jnp.float64(s + shift[0]), jnp.float64(t + shift[1]), y)
    for name, (value, gradient, _) in plain.items():
        np.testing.assert_allclose(permuted[name][0], value, atol=1e-11)
        np.testing.assert_allclose(permuted[name][1], gradient[:, order], atol=1e-11)
        np.testing.assert_allclose(shifted[name][0], value, atol=1e-11)
        np.testing.assert_allclose(shifted[name][1], gradient, atol=1e-11)


def test_the_mask_sees_the_teacher_unrounded():
    """A class just below the label stays, though other roundings would tie them."""
    label_logit, temperature = np.float32(1.5), np.float32(1.4)
    below = np.nextafter(label_logit, np.float32(0))
    assert below / temperature == label_logit / temperature
    assert jnp.bfloat16(below) == label_logit
    t = np.array([[label_logit, below, 0, 2]])
    s = np.array([[0.5, -2, 3, 0]])
    value = losses.masked_correlation(
        jnp.bfloat16(s), jnp.float32(t), jnp.array([0]), temperature=temperature
    )
    assert reference.unmasked(t[0], 0, "ge") == [1, 2]
    expected = reference.mcd(s, t, [0], float(temperature), "ge")
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_rows_left_out_are_zero_whatever_they_hold(rows):
    s, t, y = rows
    keep = np.arange(ROWS) % 3 > 0
    spoilt = [np.where(keep[:, None], z, np.nan) for z in (s, t)]
    labels = np.where(keep, y, np.resize([-1, 1000], ROWS))
    plain = measure(jnp.float32(s), jnp.float32(t), y)
    kept = measure(*map(jnp.float32, spoilt), labels, keep)
    for name in CASES:
        for a, b in zip(kept[name], plain[name], strict=True):
            assert (a[~keep] == 0).all(), name
            np.testing.assert_allclose(a[keep], b[keep], rtol=1e-5, atol=1e-5)


def test_leading_axes_and_vmap():
    s, t, y = _random_rows()
    s, t = jnp.float32(s), jnp.float32(t)
    plain = measure(s, t, y)
    split = measure(
        s.reshape(3, -1, CLASSES), t.reshape(3, -1, CLASSES), y.reshape(3, -1)
    )
    mapped = jax.jit(jax.vmap(_measure))(s, t, jnp.asarray(y))
    for name, (value, gradient, _) in plain.items():
        np.testing.assert_allclose(split[name][0].reshape(-1), value, rtol=1e-6)
        np.testing.assert_allclose(
            split[name][1].reshape(-1, CLASSES), gradient, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(mapped[name][0], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mapped[name][1], gradient, rtol=1e-5, atol=1e-6)


def test_traced_weights_and_no_jit():
    s, t, y = _random_rows()
    weights = {"alpha": 0.5, "beta": 3.0, "temperature": 2.0}
    expected = reference.rld(s, t, y, 0.5, 3.0, 2.0, 2.0, "ge")
    for rld in (losses.rld, jax.jit(losses.rld)):
        value = rld(jnp.float32(s), jnp.float32(t), y, **weights)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_a_part_of_weight_zero_is_not_computed():
    s, t, y = _random_rows()
    s[np.arange(ROWS), y] = -np.inf  # an infinite target-class part
    s, t = jnp.float32(s), jnp.float32(t)
    for loss in (losses.dkd, losses.rld):
        loss = partial(loss, s, t, y, temperature=T)
        assert np.isfinite(loss(alpha=0, beta=1.0)).all()
        assert np.isinf(loss(alpha=1.0, beta=0)).all()
        nothing = loss(alpha=0.0, beta=np.float32(0))
        assert nothing.shape == (ROWS,) and (nothing == 0).all()


@pytest.mark.parametrize(
    ("student", "teacher", "labels", "where", "message"),
    [
        ((4, 1), (4, 1), (4,), None, "at least two classes"),
        ((4, 3), (4, 5), (4,), None, r"teacher_logits has shape \(4, 5\), expected"),
        ((4, 3), (4, 3), (4, 1), None, r"labels has shape \(4, 1\), expected \(4,\)"),
        ((4, 3), (4, 3), (4,), (4, 1), r"where has shape \(4, 1\), expected \(4,\)"),
    ],
)
def test_shapes_that_would_broadcast_silently(student, teacher, labels, where, message):
    where = None if where is None else np.ones(where, bool)
    for name, (loss, _) in CASES.items():
        if name == "kd" and "labels" in message:
            continue
        with pytest.raises(ValueError, match=message):
            loss(np.ones(student), np.ones(teacher), np.zeros(labels, int), where)


def test_a_wrong_mask_names_the_right_ones():
    s, t, y = _random_rows()
    for loss in (
        partial(losses.masked_correlation, temperature=T),
        partial(losses.rld, alpha=1, beta=0, temperature=T),
    ):
        with pytest.raises(ValueError, match="'gt', expected one of ge, g, gt_only"):
            loss(s, t, y, mask="gt")


def _standardized_and_slope(z, weights):
    value, pullback = jax.vjp(jax.jit(losses.standardize), z)
    return jax.device_get((value, pullback(jnp.asarray(weights, value.dtype))[0]))


def test_standardize():
    z, weights, _ = _random_rows()
    with jax.enable_x64(True):
        value, slope = _standardized_and_slope(jnp.float64(z), weights)
    np.testing.assert_allclose(value, reference.standardize(z), atol=1e-12)
    np.testing.assert_allclose(value.std(axis=1, ddof=1), 1, rtol=1e-6)
    expected = reference.row_gradients(
        lambda z: (reference.standardize(z) * weights).sum(axis=1), z
    )
    np.testing.assert_allclose(slope, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_standardize_at_the_edges(dtype):
    z, weights, _ = _random_rows()
    z[0] = 0.0
    z[1] = 0.1  # whose mean over six classes is not exactly 0.1
    z[2] = BIG + 0.1
    z[3] = BIG * np.array([1, -1, 0, 0, 1, -1])
    value, slope = _standardized_and_slope(jnp.asarray(z, dtype), weights)
    assert value.dtype == jnp.float32
    assert (value[:3] == 0).all()
    assert np.isfinite(value).all() and np.isfinite(np.float32(slope)).all()
    np.testing.assert_allclose(value[3], reference.standardize(z[3:4])[0], rtol=2e-3)
