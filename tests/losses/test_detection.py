"""Detection losses against closed forms, pixels that are counted, and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import detection
from tests.losses.feature_reference import gradient


def test_focal_is_the_formula_and_its_gradient():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(3, 4)) * 3, rng.integers(0, 2, (3, 4)).astype(float)

    def reference(z):
        p = np.where(y > 0, 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z)))
        return np.where(y > 0, 0.25, 0.75) * (1 - p) ** 1.5 * -np.log(p)

    with jax.enable_x64(True):

        def loss(z):
            return detection.focal(z, jnp.asarray(y), alpha=0.25, gamma=1.5)

        value, pull = jax.vjp(loss, jnp.asarray(z))
        slopes = pull(jnp.ones_like(z))[0]
    np.testing.assert_allclose(value, reference(z), 1e-10)
    numeric = gradient(lambda z: reference(z).sum(), z)
    np.testing.assert_allclose(slopes, numeric, 1e-5, 1e-7)


def test_focal_without_modulation_is_cross_entropy():
    z, y = jnp.linspace(-5, 5, 11), jnp.arange(11) % 2
    plain = detection.focal(z, y, alpha=-1, gamma=0)
    reference = jnp.logaddexp(0, z) - z * y
    np.testing.assert_allclose(plain, reference, 1e-5, 1e-6)
    half = detection.focal(z, y, alpha=0.5, gamma=0)
    np.testing.assert_allclose(half, reference / 2, 1e-5, 1e-6)


def test_focal_is_finite_at_the_extremes():
    z = jnp.array([-1e4, -100.0, 0, 100.0, 1e4])
    for y in (jnp.zeros(5), jnp.ones(5)):
        for gamma in (0.0, 2.0):

            def loss(z, y=y, g=gamma):
                return detection.focal(z, y, alpha=0.25, gamma=g)

            value, pull = jax.vjp(loss, z)
            assert np.isfinite(value).all()
            assert np.isfinite(pull(jnp.ones(5))[0]).all()
    half = detection.focal(z.astype(jnp.bfloat16), jnp.ones(5), alpha=0.25, gamma=2.0)
    assert half.dtype == jnp.float32


def count(a, b):
    """Counts the cells of intersection, union and hull of two boxes of integers."""
    grid = np.zeros((2, 20, 20), bool)
    for cells, (left, top, right, bottom) in zip(grid, (a, b), strict=True):
        cells[top:bottom, left:right] = True
    low, high = np.minimum(a, b)[:2], np.maximum(a, b)[2:]
    return (
        (grid[0] & grid[1]).sum(),
        (grid[0] | grid[1]).sum(),
        np.prod(high - low),
    )


def test_overlaps_are_counted_cells():
    rng = np.random.default_rng(1)
    corners = np.sort(rng.integers(0, 20, (2, 40, 2, 2)), axis=2)
    corners[:, :, 1] += 1  # no box is empty
    a, b = np.minimum(corners, 20).reshape(2, 40, 4)
    inter, union, hull = np.array([count(*pair) for pair in zip(a, b, strict=True)]).T
    np.testing.assert_allclose(detection.overlap(a, b), inter / union, 1e-5)
    giou = inter / union - (hull - union) / hull
    np.testing.assert_allclose(detection.giou(a, b), giou, 1e-5, 1e-6)
    loss = detection.iou_loss
    np.testing.assert_allclose(loss(a, b, kind="giou"), 1 - giou, 1e-5, 1e-6)
    linear = 1 - inter / union
    np.testing.assert_allclose(loss(a, b, kind="linear_iou"), linear, 1e-5, 1e-6)
    safe = np.maximum(inter / union, 1e-7)
    np.testing.assert_allclose(loss(a, b, kind="iou"), -np.log(safe), 1e-5, 1e-6)
    smooth = (inter + 1) / (union + 1)
    official = loss(a, b, kind="iou", official=True)
    np.testing.assert_allclose(official, -np.log(smooth), 1e-5, 1e-6)


@pytest.mark.parametrize("kind", detection.KINDS)
def test_box_gradients(kind):
    a, b = (
        np.array([[1.0, 2, 6, 7], [0, 0, 3, 3]]),
        np.array([[2.0, 1, 7, 5], [1, 1, 2, 2]]),
    )
    with jax.enable_x64(True):

        def loss(a):
            return detection.iou_loss(a, jnp.asarray(b), kind=kind).sum()

        slopes = jax.grad(loss)(jnp.asarray(a))
        numeric = gradient(lambda a: float(loss(jnp.asarray(a))), a)
    np.testing.assert_allclose(slopes, numeric, 1e-5, 1e-7)
    assert np.abs(slopes).sum() > 0


@pytest.mark.parametrize("kind", detection.KINDS)
def test_empty_and_distant_boxes_are_finite(kind):
    a = jnp.array([[0.0, 0, 0, 0], [0, 0, 0, 0], [5, 5, 3, 3], [0, 0, 1, 1]])
    b = jnp.array([[0.0, 0, 0, 0], [1, 1, 2, 2], [1, 1, 2, 2], [9, 9, 9.5, 9.5]])

    def loss(a):
        return detection.iou_loss(a, b, kind=kind)

    value, pull = jax.vjp(loss, a)
    assert np.isfinite(value).all() and np.isfinite(pull(jnp.ones(4))[0]).all()


def test_pyramid_distance_and_its_gradient():
    rng = np.random.default_rng(2)
    shapes = {"p3": (2, 4, 4, 3), "p4": (2, 2, 2, 3)}
    s, t = ({k: rng.normal(size=v) for k, v in shapes.items()} for _ in range(2))
    reference = sum(
        9 * np.abs(s[k] / 3 - t[k] / 3).mean(axis=(1, 2, 3)) for k in shapes
    )

    def as_jax(x):
        return {k: jnp.asarray(v) for k, v in x.items()}

    value, pull = jax.vjp(detection.pyramid_distance, as_jax(s), as_jax(t))
    np.testing.assert_allclose(value, reference, 1e-5)
    slopes = pull(jnp.ones(2))
    np.testing.assert_allclose(
        slopes[0]["p4"], 3 * np.sign(s["p4"] - t["p4"]) / 12, 1e-5
    )
    assert not any(np.any(x) for x in slopes[1].values())


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"expected equal\. Turn class numbers"):
        detection.focal(jnp.zeros((2, 3)), jnp.zeros(2), alpha=0.25, gamma=2.0)
    with pytest.raises(ValueError, match="gamma from 0"):
        detection.focal(jnp.zeros(2), jnp.zeros(2), alpha=0.25, gamma=-1.0)
    with pytest.raises(ValueError, match="left, top, right, bottom"):
        detection.giou(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="expected one of iou, linear_iou, giou"):
        detection.iou_loss(jnp.zeros(4), jnp.zeros(4), kind="diou")
    with pytest.raises(ValueError, match="Shift the student's pyramid"):
        detection.pyramid_distance({"p3": jnp.zeros((1, 2, 2, 1))}, {})
