"""The feature losses against their formulas in float64, and at the edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import feature_reference as reference

BATCH = 3
MARGINS = np.array([-0.6, -0.2])
VARIANCE = np.array([0.5, 3.0])

# name -> (loss, reference, shape of the student's map, shape of the teacher's)
CASES = {
    "hint": (losses.hint, reference.hint, (3, 4, 2), (3, 4, 2)),
    "attention_transfer": (
        losses.attention_transfer,
        reference.attention_transfer,
        (3, 4, 2),
        (5, 6, 3),
    ),
    "attention_transfer, crossed sizes": (
        losses.attention_transfer,
        reference.attention_transfer,
        (5, 3, 2),
        (3, 4, 4),
    ),
    "neuron_selectivity": (
        losses.neuron_selectivity,
        reference.neuron_selectivity,
        (5, 4, 2),
        (3, 3, 4),
    ),
    "ofd": (
        lambda s, t: losses.ofd(s, t, jnp.asarray(MARGINS, t.dtype)),
        lambda s, t: reference.ofd(s, t, MARGINS),
        (3, 3, 2),
        (4, 5, 2),
    ),
    "ofd, larger student": (
        lambda s, t: losses.ofd(s, t, jnp.asarray(MARGINS, t.dtype)),
        lambda s, t: reference.ofd(s, t, MARGINS),
        (4, 5, 2),
        (3, 3, 2),
    ),
    "vid": (
        lambda s, t: losses.vid(s, t, jnp.asarray(VARIANCE, t.dtype)),
        lambda s, t: reference.vid(s, t, VARIANCE),
        (3, 3, 2),
        (4, 5, 2),
    ),
    "hierarchical_context": (
        losses.hierarchical_context,
        reference.hierarchical_context,
        (5, 6, 2),
        (5, 6, 2),
    ),
    "hierarchical_context, 4 rows": (
        losses.hierarchical_context,
        reference.hierarchical_context,
        (4, 3, 2),
        (4, 3, 2),
    ),
    "hierarchical_context, pooled": (
        losses.hierarchical_context,
        reference.hierarchical_context,
        (1, 1, 4),
        (1, 1, 4),
    ),
}


def _maps(seed=0):
    """Random maps of student and teacher for each case, and weights of examples."""
    rng = np.random.default_rng(seed)
    return {
        name: tuple(rng.normal(0, 1, (BATCH, *shape)) for shape in shapes)
        for name, (_, _, *shapes) in CASES.items()
    }


WEIGHTS = np.array([1.0, -0.5, 2.0])


@jax.jit
def _measure_jitted(maps):
    def measured(loss, s, t):
        value, pullback = jax.vjp(loss, s, t)
        return value, *pullback(jnp.asarray(WEIGHTS, value.dtype))

    return {name: measured(CASES[name][0], *pair) for name, pair in maps.items()}


def measure(maps, dtype=jnp.float32):
    """Measures losses: name -> (value, gradient by student, by teacher)."""
    student_order = {
        name: tuple(jnp.asarray(x, dtype) for x in pair) for name, pair in maps.items()
    }
    return jax.device_get(_measure_jitted(student_order))


@pytest.fixture(scope="module")
def plain():
    return measure(_maps())


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(jnp.float64, 1e-12, 1e-8), (jnp.float32, 1e-5, 1e-5)],
)
def test_values_and_gradients(dtype, value_tolerance, gradient_tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        measured = measure(_maps(), dtype)
    for name, (s, t) in _maps().items():
        formula = CASES[name][1]
        value, gradient, _ = measured[name]
        assert value.shape == (BATCH,) and value.dtype == dtype, name
        np.testing.assert_allclose(
            value, formula(s, t), value_tolerance, value_tolerance, err_msg=name
        )
        slope = reference.gradient(
            lambda s, t=t, formula=formula: WEIGHTS @ formula(s, t), s
        )
        np.testing.assert_allclose(
            gradient, slope, gradient_tolerance, gradient_tolerance, err_msg=name
        )


def test_bfloat16_is_computed_in_float32():
    maps = {
        name: tuple(np.asarray(jnp.bfloat16(x), float) for x in pair)
        for name, pair in _maps().items()
    }
    # These are not rounded to bfloat16 with the features.
    constants = ("ofd", "vid")
    exact = measure(maps)
    some = {name: pair for name, pair in maps.items() if "," not in name}
    for name, (value, gradient, _) in measure(some, jnp.bfloat16).items():
        assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16, name
        rtol = 5e-3 if name.startswith(constants) else 1e-6
        np.testing.assert_allclose(value, exact[name][0], rtol, 1e-6, err_msg=name)
        np.testing.assert_allclose(
            np.float32(gradient), exact[name][1], 1e-2, 2e-2, err_msg=name
        )


@pytest.mark.parametrize("edge", ["zero student", "zero teacher", "zero", "one dead"])
def test_gradients_are_finite(edge):
    maps = _maps()
    for s, t in maps.values():
        if edge in ("zero student", "zero"):
            s[:] = 0
        if edge in ("zero teacher", "zero"):
            t[:] = 0
        if edge == "one dead":
            s[1], s[..., 0], t[2], t[..., 1] = 0, 0, 0, 0
    for name, (value, gradient, _) in measure(maps).items():
        assert np.isfinite(value).all() and np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() < 1e3, name
        expected = CASES[name][1](*maps[name])
        np.testing.assert_allclose(value, expected, 1e-5, 1e-6, err_msg=name)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_normalised_losses_ignore_scale(plain, scale):
    scaled = measure({name: (scale * s, t) for name, (s, t) in _maps().items()})
    for name in ("attention_transfer", "neuron_selectivity"):
        np.testing.assert_allclose(scaled[name][0], plain[name][0], 1e-4)
        np.testing.assert_allclose(scale * scaled[name][1], plain[name][1], 1e-3, 1e-4)


def test_order_and_sign_of_channels(plain):
    maps = _maps()
    flipped = {
        name: (s[..., ::-1] * [-1, *[1] * (s.shape[-1] - 1)], -t[..., ::-1])
        for name, (s, t) in maps.items()
    }
    changed = measure(flipped)
    for name in ("attention_transfer", "neuron_selectivity"):
        np.testing.assert_allclose(changed[name][0], plain[name][0], 1e-5)


def test_the_teacher_gets_no_gradient(plain):
    for name, (_, _, gradient) in plain.items():
        assert (gradient == 0).all(), name


def test_equal_maps_cost_nothing():
    rng = np.random.default_rng(1)
    maps = _maps()
    for s, t in maps.values():
        if s.shape == t.shape:
            s[:] = t
        else:  # maps of one value each, whose sizes and channels do not matter
            s[:] = t[:] = rng.normal()
    for name, (value, gradient, _) in measure(maps).items():
        if not name.startswith("vid"):
            np.testing.assert_allclose(value, 0, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(gradient, 0, atol=1e-5, err_msg=name)


def test_vid_is_a_likelihood():
    """The likelihood of normal variables, which the best variance maximises."""
    rng = np.random.default_rng(2)
    s, t = rng.normal(0, 1, (2, 2, 3, 4, 2))
    best = ((s - t) ** 2).mean(axis=(0, 1, 2))

    def loss(variance):
        return jnp.mean(losses.vid(jnp.float32(s), jnp.float32(t), variance))

    measured = jax.jit(jax.value_and_grad(loss))
    for variance in (best, VARIANCE):
        value, slope = measured(jnp.float32(variance))
        density = np.exp(-((s - t) ** 2) / (2 * variance))
        density /= np.sqrt(2 * np.pi * variance)
        expected = -np.log(density).mean() - np.log(2 * np.pi) / 2
        np.testing.assert_allclose(value, expected, 1e-5)
        expected = (1 / variance - best / variance**2) / 2 / 2  # two channels
        np.testing.assert_allclose(slope, expected, 1e-4, 1e-6)


def test_ofd_margins():
    scale = np.array([1.0, -0.7, 0.3, 2.0, 1e-3, 0.0, 0.0])
    bias = np.array([0.2, -1.0, 2.0, 6.0, -4.0, -0.5, 0.5])
    expected = [reference.margin(s, m) for s, m in zip(scale[:5], bias, strict=False)]
    margins = jax.jit(losses.ofd_margins)(jnp.float32(scale), jnp.float32(bias))
    np.testing.assert_allclose(margins, [*expected, -0.5, 0], rtol=1e-5)
    assert (margins <= 0).all()
    # The mean of the negative values, where they are not too few.
    values = bias + np.abs(scale) * np.random.default_rng(3).normal(size=(400_000, 7))
    for channel in (0, 1, 4, 5):
        x = values[:, channel]
        np.testing.assert_allclose(margins[channel], x[x < 0].mean(), rtol=5e-3)


def test_ofd_leaves_alone_what_the_relu_removes():
    """A student below a negative target is right already, wherever it lies."""
    t = np.full((1, 1, 1, 1), -0.3)
    margins = np.float32([-0.5])
    for s, expected in ((-0.31, 0), (-9.0, 0), (-0.2, 0.01), (1.0, 1.69)):
        value = losses.ofd(np.full_like(t, s), t, margins)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


SIZES = (1, 2, 3, 4, 5, 7, 8, 12)


def _pooled(maps, sizes):
    """Pools each map to its size, compiled together."""
    pool = losses.adaptive_average_pool
    pairs = partial(zip, strict=True)
    return jax.jit(lambda maps: [pool(x, size) for x, size in pairs(maps, sizes)])(maps)


def test_adaptive_average_pool():
    rng = np.random.default_rng(4)
    maps = [rng.normal(size=(n, 6, 2)) for n in SIZES]
    sizes = [*zip(reversed(SIZES), (6, 4, 9, 1, 5, 6, 3, 2), strict=True)]
    for x, size, pooled in zip(maps, sizes, _pooled(maps, sizes), strict=True):
        np.testing.assert_allclose(pooled, reference.pool(x, size), 1e-5, 1e-6)


@pytest.mark.torch
@pytest.mark.slow
def test_adaptive_average_pool_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    sizes = [(new, 15 - new) for new in range(1, 15)]
    for height in (1, 2, 3, 5, 7, 8, 11, 14):
        x = rng.normal(size=(1, height, 11, 2))
        planes = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
        with jax.enable_x64(True):
            pooled = _pooled([x] * len(sizes), sizes)
        for size, got in zip(sizes, pooled, strict=True):
            wanted = torch.nn.functional.adaptive_avg_pool2d(planes, size)
            np.testing.assert_allclose(
                got, np.moveaxis(wanted.numpy(), 1, -1), atol=1e-14
            )


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "message"),
    [
        (losses.hint, (4, 3), (4, 5), r"\(4, 3\) and teacher \(4, 5\), expected"),
        (losses.attention_transfer, (4, 3), (4, 3), r"expected \[batch, height"),
        (losses.neuron_selectivity, (4, 2, 2, 3), (1, 2, 2, 3), "the same batch"),
        (losses.hierarchical_context, (4, 2, 2, 3), (4, 2, 1, 3), "and equal"),
        (losses.hierarchical_context, (4, 3), (4, 3), "Reshape pooled features"),
    ],
)
def test_shapes_that_would_broadcast_silently(loss, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        loss(np.ones(student), np.ones(teacher))


def test_shapes_of_channels():
    maps = np.ones((2, 3, 3, 4))
    for loss, name in ((losses.ofd, "margins"), (losses.vid, "variance")):
        with pytest.raises(
            ValueError, match=rf"{name} has shape \(1,\), expected \(4,\)"
        ):
            loss(maps, maps, np.ones(1))
        with pytest.raises(ValueError, match="student has 1 channels and teacher 4"):
            loss(maps[..., :1], maps, np.ones(4))
    with pytest.raises(ValueError, match=r"bias \(1,\), expected \[channels\]"):
        losses.ofd_margins(np.ones(4), np.ones(1))
    for x, size in ((maps[0, 0], (1, 1)), (maps, (0, 1))):
        with pytest.raises(ValueError, match="two positive numbers"):
            losses.adaptive_average_pool(x, size)
