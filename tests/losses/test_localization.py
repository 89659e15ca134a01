"""DeFI-Net's losses against float64 NumPy written pixel by pixel, and the edge ring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import localization

SHAPE = (2, 19, 37)


def numpy_weights(mask):
    height, width = mask.shape
    weights = np.empty_like(mask)
    for i in range(height):
        for j in range(width):
            part = mask[max(i - 15, 0) : i + 16, max(j - 15, 0) : j + 16]
            weights[i, j] = 1 + 5 * abs(part.sum() / 31**2 - mask[i, j])
    return weights


def numpy_cross_entropy(z, mask, weights):
    p = 1 / (1 + np.exp(-z))
    losses = -(mask * np.log(p) + (1 - mask) * np.log(1 - p))
    return (weights * losses).sum() / weights.sum()


def numpy_structure(z, mask, official):
    weights = numpy_weights(mask)
    plain = np.ones_like(mask)
    bce = numpy_cross_entropy(z, mask, plain if official else weights)
    p = 1 / (1 + np.exp(-z))
    inter, union = (p * mask * weights).sum(), ((p + mask) * weights).sum()
    return bce + 1 - (inter + 1) / (union - inter + 1)


def numpy_boundary(z, mask, official):
    weights = np.ones_like(mask) if official else numpy_weights(mask)
    return numpy_cross_entropy(z, mask, weights)


def inputs():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, SHAPE)
    masks = np.zeros(SHAPE)
    masks[0, 3:12, 20:37] = 1
    masks[1] = np.clip(rng.normal(0.3, 0.5, SHAPE[1:]), 0, 1)  # soft
    return logits, masks


LOSSES = [
    (localization.structure_loss, numpy_structure),
    (localization.boundary_loss, numpy_boundary),
]


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("loss", "formula"), LOSSES)
def test_values_and_gradients(loss, formula, official):
    logits, masks = inputs()
    wanted = [formula(z, m, official) for z, m in zip(logits, masks, strict=True)]
    with jax.enable_x64(True):
        value, pullback = jax.vjp(lambda z: loss(z, masks, official=official), logits)
        gradient = pullback(jnp.array([1.0, -2.0]))[0]
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    single = loss(
        jnp.asarray(logits, jnp.float32), jnp.asarray(masks), official=official
    )
    np.testing.assert_allclose(single, wanted, rtol=2e-5)
    for n, i, j in ((0, 3, 20), (0, 11, 36), (1, 0, 0), (0, 5, 3)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = logits[n].copy()
            moved[i, j] += step
            ends.append(formula(moved, masks[n], official))
        slope = (ends[0] - ends[1]) / 2e-5 * (1.0, -2.0)[n]
        np.testing.assert_allclose(gradient[n, i, j], slope, rtol=1e-5, atol=1e-10)


@pytest.mark.torch
def test_the_official_cross_entropy_is_that_of_the_published_code():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    logits, masks = (torch.from_numpy(x)[:, None] for x in inputs())
    pooled = functional.avg_pool2d(masks, kernel_size=31, stride=1, padding=15)
    weights = 1 + 5 * (pooled - masks).abs()
    mean = functional.binary_cross_entropy_with_logits(logits, masks)
    # The mean of the whole batch, spread out and averaged with weights: itself.
    wanted = ((weights * mean).sum((2, 3)) / weights.sum((2, 3))).mean()
    with jax.enable_x64(True):
        got = localization.boundary_loss(*inputs(), official=True).mean()
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-12)
    with jax.enable_x64(True):
        assert abs(localization.boundary_loss(*inputs()).mean() - got) > 1e-2


def brute_ring(mask):
    """Pixels of the mask that see a pixel outside it within two in each direction."""
    ring = np.zeros_like(mask)
    for i, j in np.argwhere(mask):
        part = mask[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
        ring[i, j] = not part.all()
    return ring


def ring_cases():
    rng = np.random.default_rng(3)
    square, corner = np.zeros((2, 16, 16), bool)
    square[4:12, 5:13] = True
    corner[:7, :9] = True
    disc = np.hypot(*np.mgrid[-8:9, -10:11]) < 7
    point = np.zeros((5, 5), bool)
    point[2, 2] = True
    return {
        "square": square,
        "at the corner": corner,
        "disc": disc,
        "point": point,
        "all": np.ones((6, 7), bool),
        "none": np.zeros((6, 7), bool),
        "noise": rng.random((20, 15)) > 0.2,
    }


@pytest.mark.parametrize("name", ring_cases())
def test_the_edge_is_the_inner_ring(name):
    mask = ring_cases()[name]
    ring = localization.edge_ring(jnp.asarray(mask, jnp.float32))
    np.testing.assert_array_equal(ring, brute_ring(mask))


def test_known_rings():
    square = ring_cases()["square"]
    ring = np.asarray(localization.edge_ring(square))
    assert ring.sum() == 64 - 16 and not ring[6:10, 7:11].any()
    # The border of the image is no boundary of the mask.
    ring = np.asarray(localization.edge_ring(ring_cases()["at the corner"]))
    assert ring.sum() == 63 - 5 * 7 and not ring[:5, :7].any()


@pytest.mark.parametrize("name", ring_cases())
def test_the_ring_is_that_of_opencv(name):
    cv2 = pytest.importorskip("cv2")
    mask = ring_cases()[name].astype(np.uint8)
    eroded = cv2.erode(mask, np.ones((5, 5), np.uint8), iterations=1)
    np.testing.assert_array_equal(localization.edge_ring(mask), mask - eroded)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[1e4, -1e4, 0.0]]])
    masks = jnp.array([[[0.0, 1.0, 1.0]]])
    for loss, _ in LOSSES:
        value, gradient = jax.value_and_grad(lambda z, f=loss: f(z, masks).sum())(
            logits
        )
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_half_precision_is_computed_in_single():
    logits, masks = inputs()
    value = localization.structure_loss(jnp.asarray(logits, jnp.bfloat16), masks)
    assert value.dtype == jnp.float32


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="Drop an axis"):
        localization.structure_loss(jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="expected both"):
        localization.boundary_loss(jnp.zeros((2, 4, 4)), jnp.zeros((2, 4, 5)))
