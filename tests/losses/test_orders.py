"""HORKD's orders against their formulas in float64, and what they do not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxkd import losses
from jaxkd.losses import orders
from tests.losses import feature_reference
from tests.losses import order_reference as reference

BATCH, FEATURES, TEACHER_FEATURES = 7, 4, 6

FORMS = {
    "second": orders.second_order,
    "second gram": lambda s, t: orders.second_order(s, t, form="gram"),
    "third": orders.third_order,
    "third gram": lambda s, t: orders.third_order(s, t, form="gram"),
    "third by 3": lambda s, t: orders.third_order(s, t, chunk=3),
    "third by 7": lambda s, t: orders.third_order(s, t, chunk=7),
}
WANTED = {
    "second": feature_reference.rkd_distance,
    "third": feature_reference.rkd_angle,
}


def _rows(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (BATCH, FEATURES)), rng.normal(
        0.5, 3, (BATCH, TEACHER_FEATURES)
    )


@jax.jit
def _measure(s, t):
    return {
        name: jax.value_and_grad(form, argnums=(0, 1))(s, t)
        for name, form in FORMS.items()
    }


def measure(s, t, dtype=jnp.float32):
    """Measures every form: name -> (value, (gradient by student, by teacher))."""
    return jax.device_get(_measure(jnp.asarray(s, dtype), jnp.asarray(t, dtype)))


def _wanted(name):
    return WANTED[name.split()[0]]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(jnp.float64, 1e-8), (jnp.float32, 2e-5), (jnp.bfloat16, 1e-2)],
)
def test_every_form_has_the_value_and_gradient_of_the_formula(dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        s, t = (np.asarray(jnp.asarray(x, dtype), float) for x in _rows())
        measured = measure(s, t, dtype)
    slopes = {
        name: feature_reference.gradient(lambda s, f=f: f(s, t), s)
        for name, f in WANTED.items()
    }
    for name, (value, (gradient, of_teacher)) in measured.items():
        assert value.dtype == jnp.promote_types(dtype, jnp.float32), name
        assert gradient.dtype == dtype and (of_teacher == 0).all(), name
        np.testing.assert_allclose(value, _wanted(name)(s, t), 2e-5, err_msg=name)
        slope = slopes[name.split()[0]]
        close = tolerance * np.abs(slope).max()
        np.testing.assert_allclose(
            gradient.astype(float), slope, tolerance, close, err_msg=name
        )


def _rotation(size, rng):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def test_rotation_scale_shift_and_order_are_not_seen():
    rng = np.random.default_rng(1)
    s, t = _rows()
    plain = measure(s, t)
    turned = measure(7 * s @ _rotation(FEATURES, rng) + 3, 0.2 * t - 1)
    order = rng.permutation(BATCH)
    shuffled = measure(s[order], t[order])
    for name in FORMS:
        np.testing.assert_allclose(turned[name][0], plain[name][0], 1e-4, err_msg=name)
        np.testing.assert_allclose(shuffled[name][0], plain[name][0], 1e-4)
        np.testing.assert_allclose(
            shuffled[name][1][0], plain[name][1][0][order], 1e-3, 1e-6
        )


def test_a_moved_copy_costs_nothing_and_a_stretched_one_does():
    s, _ = _rows()
    stretched = s * np.linspace(0.2, 2, FEATURES)
    moved = 3 * s @ _rotation(FEATURES, np.random.default_rng(2)) + 2
    same, other = measure(moved, s), measure(stretched, s)
    for name in FORMS:
        assert abs(same[name][0]) < 1e-10, name
        assert other[name][0] > 1e-3, name


def test_first_order_sees_direction_alone():
    s, t = _rows()
    t = t[:, :FEATURES]
    value, (gradient, of_teacher) = jax.value_and_grad(
        lambda s, t: losses.first_order(s, t).sum(), argnums=(0, 1)
    )(jnp.float32(s), jnp.float32(t))
    np.testing.assert_allclose(value, reference.first_order(s, t).sum(), 1e-5)
    slope = feature_reference.gradient(lambda s: reference.first_order(s, t).sum(), s)
    np.testing.assert_allclose(gradient, slope, 1e-4, 1e-6)
    assert (of_teacher == 0).all()
    cosine = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(s, t, strict=True)
    ]
    np.testing.assert_allclose(
        losses.first_order(5 * s, 0.1 * t), 2 - 2 * np.array(cosine), 1e-5
    )
    turned = s @ _rotation(FEATURES, np.random.default_rng(3))
    assert abs(losses.first_order(turned, s)).max() > 0.1


@pytest.mark.parametrize("edge", ["two equal rows", "all equal", "a zero row", "zero"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_at_duplicates_are_finite(edge, dtype):
    s, t = _rows()
    if edge == "two equal rows":
        s[3], t[0] = s[1], t[2]
    if edge == "all equal":
        s[:], t[:] = s[0], t[0]
    if edge == "a zero row":
        s[2], t[4] = 0, 0
    if edge == "zero":
        s[:], t[:] = 0, 0
    for name, (value, (gradient, _)) in measure(s, t, dtype).items():
        assert np.isfinite(value) and np.isfinite(gradient.astype(float)).all(), name
        assert np.abs(gradient.astype(float)).max() < 10, name
    rank = jax.grad(lambda s, t: losses.darkrank(s, t).sum())
    assert jnp.isfinite(rank(jnp.asarray(s, dtype), jnp.asarray(t, dtype))).all()


def test_gram_form_far_from_the_origin():
    """Rows are centred first, so a common offset costs no digits."""
    s, t = _rows()
    near, far = measure(s, t), measure(s + 100, t + 100)
    for name in ("second gram", "third gram"):
        np.testing.assert_allclose(far[name][0], near[name][0], 1e-3)


def test_both_forms_count_equal_rows_among_the_pairs():
    """Two equal rows of six, in one network only: 0.1188 by the formula."""
    s, t = (np.random.default_rng(i).normal(size=(6, 4)) for i in (0, 1))
    s[1] = s[0]
    measured = measure(s, t)
    wanted = feature_reference.rkd_distance(s, t)
    for name in ("second", "second gram"):
        np.testing.assert_allclose(measured[name][0], wanted, 1e-5, err_msg=name)
    np.testing.assert_allclose(
        measured["second gram"][1][0], measured["second"][1][0], 1e-3, 1e-6
    )


def test_gram_form_treats_rows_lost_to_rounding_as_equal():
    s, t = _rows()
    s[1] = s[0] + 1e-6
    value, (gradient, _) = measure(s, t)["third gram"]
    s[1] = s[0]
    np.testing.assert_allclose(value, measure(s, t)["third gram"][0], 1e-4)
    assert np.abs(gradient).max() < 1


def test_darkrank_and_correlation_congruence():
    s, t = _rows()
    np.testing.assert_allclose(losses.darkrank(s, t), reference.darkrank(s, t), 1e-4)
    value = losses.darkrank(s, t, alpha=0.5, beta=2.0, neighbours=3)
    np.testing.assert_allclose(value, reference.darkrank(s, t, 0.5, 2.0, 3), 1e-4)
    t = t[:, :FEATURES]
    np.testing.assert_allclose(
        losses.correlation_congruence(s, t),
        reference.correlation_congruence(s, t),
        1e-5,
    )


def test_errors():
    s, t = _rows()
    with pytest.raises(ValueError, match="same batch"):
        losses.second_order(s[1:], t, form="gram")
    with pytest.raises(ValueError, match="'direct' or 'gram'"):
        losses.third_order(s, t, form="fast")
    with pytest.raises(ValueError, match="direct form"):
        losses.third_order(s, t, form="gram", chunk=2)
    with pytest.raises(ValueError, match="expected \\[batch"):
        losses.first_order(s, t)
    with pytest.raises(ValueError, match="fewer than the batch"):
        losses.darkrank(s, t, neighbours=7)
    with pytest.raises(ValueError, match="two or more"):
        losses.correlation_congruence(s[:1], s[:1])


@pytest.mark.parametrize("name", ["second", "third gram"])
def test_relations_alone_recover_the_arrangement(name):
    """A free student of 8 features learns a teacher of 64 that has rank 4."""
    rng = np.random.default_rng(0)
    t = jnp.float32(rng.normal(size=(24, 4)) @ rng.normal(size=(4, 64)))
    loss = FORMS[name]

    @jax.jit
    def descend(s):
        def step(carry, _):
            s, speed = carry
            value, slope = jax.value_and_grad(loss)(s, t)
            speed = 0.9 * speed - 20.0 * slope
            return (s + speed, speed), value

        return jax.lax.scan(step, (s, 0 * s), None, length=300)

    (s, _), values = descend(jnp.float32(rng.normal(size=(24, 8))))
    assert values[-1] < 0.1 * values[0]
    pairs = np.triu_indices(24, 1)
    apart = [
        np.linalg.norm(np.asarray(x)[:, None] - np.asarray(x), axis=-1)[pairs]
        for x in (s, t)
    ]
    assert spearmanr(*apart).statistic > 0.9
