"""The relation losses against their formulas in float64, and their invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import feature_reference as reference

NAMES = ("pkt", "rkd_distance", "rkd_angle", "similarity_preserving")
BATCH, FEATURES, TEACHER_FEATURES = 5, 4, 7


def _rows(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (BATCH, FEATURES)), rng.normal(
        0, 3, (BATCH, TEACHER_FEATURES)
    )


@jax.jit
def _measure_jitted(s, t):
    return {
        name: jax.value_and_grad(getattr(losses, name), argnums=(0, 1))(s, t)
        for name in NAMES
    }


def measure(s, t, dtype=jnp.float32):
    """Measures every loss: name -> (value, (gradient by student, by teacher))."""
    return jax.device_get(_measure_jitted(jnp.asarray(s, dtype), jnp.asarray(t, dtype)))


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(jnp.float64, 1e-12, 1e-8), (jnp.float32, 2e-5, 1e-5), (jnp.bfloat16, 2e-5, 1e-2)],
)
def test_values_and_gradients(dtype, value_tolerance, gradient_tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        s, t = (np.asarray(jnp.asarray(x, dtype), float) for x in _rows())
        measured = measure(s, t, dtype)
    for name, (value, (gradient, teacher_gradient)) in measured.items():
        formula = getattr(reference, name)
        assert value.shape == ()
        assert value.dtype == jnp.promote_types(dtype, jnp.float32), name
        assert gradient.dtype == dtype and (teacher_gradient == 0).all(), name
        np.testing.assert_allclose(
            value, formula(s, t), value_tolerance, 1e-8, err_msg=name
        )
        slope = reference.gradient(lambda s, f=formula: f(s, t), s)
        np.testing.assert_allclose(
            gradient.astype(float),
            slope,
            gradient_tolerance,
            gradient_tolerance * np.abs(slope).max(),
            err_msg=name,
        )


def _spoilt(edge):
    s, t = _rows()
    if edge == "two equal rows":
        s[3] = s[1]
        t[0] = t[2]
    if edge == "all rows equal":
        s[:], t[:] = s[0], t[0]
    if edge == "a zero row":
        s[2], t[4] = 0, 0
    if edge == "student zero":
        s[:] = 0
    if edge == "all zero":
        s[:], t[:] = 0, 0
    return s, t


@pytest.mark.parametrize(
    "edge",
    ["two equal rows", "all rows equal", "a zero row", "student zero", "all zero"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite(edge, dtype):
    s, t = (np.asarray(jnp.asarray(x, dtype), float) for x in _spoilt(edge))
    for name, (value, (gradient, _)) in measure(s, t, dtype).items():
        # 1e-6 is as small as distances get: equal rows lie that far apart.
        expected = getattr(reference, name)(s, t)
        np.testing.assert_allclose(value, expected, 1e-4, 1e-7, err_msg=name)
        assert np.isfinite(gradient.astype(float)).all(), name
        assert np.abs(gradient.astype(float)).max() < 10, name


def test_no_gradient_between_equal_rows_or_of_zero_rows():
    for edge, dead in (("all rows equal", NAMES[:3]), ("student zero", NAMES)):
        measured = measure(*_spoilt(edge))
        for name in dead:
            np.testing.assert_allclose(measured[name][1][0], 0, atol=1e-7)


def _rotation(size, rng):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def test_rotation_scale_and_order():
    """What each loss does not see, of either network."""
    rng = np.random.default_rng(1)
    s, t = _rows()
    plain = measure(s, t)
    turned = measure(s @ _rotation(FEATURES, rng), t @ _rotation(TEACHER_FEATURES, rng))
    scaled = measure(7 * s, 0.2 * t)
    order = rng.permutation(BATCH)
    shuffled = measure(s[order], t[order])
    for name in NAMES:
        for changed in (turned, scaled, shuffled):
            np.testing.assert_allclose(changed[name][0], plain[name][0], 1e-4)
        np.testing.assert_allclose(
            shuffled[name][1][0], plain[name][1][0][order], 1e-4, 1e-6
        )


def test_shift_and_length_of_rows():
    rng = np.random.default_rng(2)
    s, t = _rows()
    plain = measure(s, t)
    shifted = measure(s + rng.normal(size=FEATURES), t + 5)
    for name in ("rkd_distance", "rkd_angle"):
        np.testing.assert_allclose(shifted[name][0], plain[name][0], 1e-4)
    stretched = measure(s * rng.uniform(0.1, 9, (BATCH, 1)), t)
    np.testing.assert_allclose(stretched["pkt"][0], plain["pkt"][0], 1e-4)


def test_the_same_arrangement_costs_nothing():
    s, _ = _rows()
    t = 3 * np.pad(s, ((0, 0), (0, TEACHER_FEATURES - FEATURES)))
    for name, (value, (gradient, _)) in measure(s, t).items():
        np.testing.assert_allclose(value, 0, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(gradient, 0, atol=1e-6, err_msg=name)


def test_close_rows_far_from_the_origin_keep_their_distance():
    """Expanding the square would leave nothing but rounding here."""
    s, t = _rows()
    s = np.asarray(np.float32(1000 + 0.01 * s), float)
    value, _ = measure(s, t)["rkd_distance"]
    np.testing.assert_allclose(value, reference.rkd_distance(s, t), 1e-4)


def test_maps_are_flattened():
    s, t = _rows()
    maps = measure(s.reshape(BATCH, 2, 1, 2), t)
    for name, (value, (gradient, _)) in measure(s, t).items():
        np.testing.assert_allclose(maps[name][0], value, 1e-5)
        np.testing.assert_allclose(
            maps[name][1][0].reshape(BATCH, -1), gradient, 1e-4, 1e-6
        )


def test_one_row_costs_nothing():
    s, t = _rows()
    for name, (value, (gradient, _)) in measure(s[:1], t[:1]).items():
        np.testing.assert_allclose(value, 0, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(gradient, 0, atol=1e-6, err_msg=name)


@pytest.mark.torch
@pytest.mark.slow
def test_rkd_is_that_of_torch():
    torch = pytest.importorskip("torch")
    s, t = _rows()
    measured = measure(s, t)
    a, b = (torch.from_numpy(x) for x in (s, t))
    off = ~torch.eye(BATCH, dtype=bool)
    distances = [torch.cdist(x, x) for x in (a, b)]
    distances = [d / d[off].mean() for d in distances]
    unit = torch.nn.functional.normalize
    angles = [unit(x[None] - x[:, None], dim=2) for x in (a, b)]
    angles = [x @ x.transpose(1, 2) for x in angles]
    for name, pair in (("rkd_distance", distances), ("rkd_angle", angles)):
        wanted = torch.nn.functional.smooth_l1_loss(*pair)
        np.testing.assert_allclose(measured[name][0], wanted.item(), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit(name):
    for student, teacher in (((4, 3), (1, 3)), ((4,), (4,))):
        with pytest.raises(ValueError, match="with the same batch"):
            getattr(losses, name)(np.ones(student), np.ones(teacher))
