"""FCOS: targets of hand-made boxes, decoding, suppression, the shifted pyramid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.models import fcos

STRIDES, RANGES = (8, 16), ((-1, 24), (24, 1e8))


def brute_force(boxes, classes, size, radius):
    """Assigns objects location by location."""
    answers = []
    for stride, (low, high) in zip(STRIDES, RANGES, strict=True):
        for row in range(-(-size[0] // stride)):
            for column in range(-(-size[1] // stride)):
                x, y = column * stride + stride // 2, row * stride + stride // 2
                best = (np.inf, -1, np.zeros(4))
                for (x0, y0, x1, y1), label in zip(boxes, classes, strict=True):
                    sides = np.array([x - x0, y - y0, x1 - x, y1 - y])
                    cx, cy, reach = (x0 + x1) / 2, (y0 + y1) / 2, radius * stride
                    near = max(x0, cx - reach) < x < min(x1, cx + reach) and max(
                        y0, cy - reach
                    ) < y < min(y1, cy + reach)
                    ok = (near if radius else sides.min() > 0) and label >= 0
                    area = (x1 - x0) * (y1 - y0)
                    if ok and low <= sides.max() <= high and area < best[0]:
                        best = (area, label, sides)
                _, label, (left, top, right, bottom) = best
                centre = 0.0
                if label >= 0:
                    across = min(left, right) / max(left, right)
                    centre = np.sqrt(across * min(top, bottom) / max(top, bottom))
                answers.append((label, *best[2] / stride, centre))
    return np.array(answers)


@pytest.mark.parametrize("radius", [0, 1.5])
def test_targets_of_random_boxes(radius):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 64, (3, 6, 2, 2)), axis=2)
    boxes = corners.reshape(3, 6, 4)
    classes = rng.integers(0, 5, (3, 6))
    classes[:, 4:] = -1  # padding
    found = fcos.targets(
        jnp.asarray(boxes),
        jnp.asarray(classes),
        (48, 64),
        strides=STRIDES,
        ranges=RANGES,
        radius=radius,
    )
    positives = 0
    for i in range(3):
        expected = brute_force(boxes[i], classes[i], (48, 64), radius)
        np.testing.assert_array_equal(found.classes[i], expected[:, 0])
        np.testing.assert_allclose(found.distances[i], expected[:, 1:5], 1e-4, 1e-5)
        np.testing.assert_allclose(found.centerness[i], expected[:, 5], 1e-4, 1e-5)
        positives += (expected[:, 0] >= 0).sum()
    assert positives > 10


def one_level(boxes, classes, **options):
    options = {"strides": (8,), "ranges": ((-1, 64),)} | options
    boxes, classes = jnp.asarray(boxes, jnp.float32), jnp.asarray(classes)
    return fcos.targets(boxes, classes, (32, 32), **options)


def test_ties_go_to_the_smaller_and_then_to_the_first():
    large, small, twin = [0, 0, 32, 32], [8, 8, 24, 24], [8, 8, 24, 24]
    found = one_level([large, small, twin], [1, 2, 3]).classes.reshape(4, 4)
    # All centres are (16, 16): cells within 12 pixels of it, and inside the box.
    expected = np.array([[-1] * 4, [-1, 2, 2, -1], [-1, 2, 2, -1], [-1] * 4])
    np.testing.assert_array_equal(found, expected)
    wide = one_level([large, small], [1, 2], radius=0).classes.reshape(4, 4)
    assert (np.asarray(wide) == 1).sum() == 12


def test_centre_sampling_is_clipped_to_the_box():
    found = one_level([[0, 12, 32, 20]], [0]).classes.reshape(4, 4)
    assert (np.asarray(found) >= 0).sum() == 0  # rows at 4, 12, 20, 28: on its border
    found = one_level([[0, 11.9, 32, 20]], [0]).classes.reshape(4, 4)
    np.testing.assert_array_equal(found[1] >= 0, [False, True, True, False])


def test_ranges_include_both_ends():
    for low, high, positive in ((20, 30, 1), (10, 20, 1), (20.5, 30, 0), (10, 19.5, 0)):
        box = [[4, 4, 32, 32]]  # from (12, 12): 8, 8, 20, 20
        found = one_level(box, [0], ranges=((low, high),)).classes.reshape(4, 4)
        assert (found[1, 1] >= 0) == positive


def test_nothing_to_find():
    found = one_level(np.zeros((0, 4)).reshape(0, 4).tolist() or np.zeros((1, 4)), [-1])
    assert (found.classes == -1).all() and not found.centerness.any()
    degenerate = one_level([[5, 5, 5, 5]], [0])
    assert (degenerate.classes == -1).all()


def slow_nms(boxes, scores, classes, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        a, beaten = boxes[i], scores[i] <= 0
        for j in kept:
            b = boxes[j]
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            inter = max(width, 0) * max(height, 0)

            def area(c):
                return (c[2] - c[0]) * (c[3] - c[1])

            same = classes[i] == classes[j]
            beaten |= same and inter / (area(a) + area(b) - inter) > threshold
        kept += [] if beaten else [i]
    return kept


def test_suppression_is_that_of_brute_force():
    suppress = jax.jit(lambda *args: fcos.nms(*args, threshold=0.3, num_boxes=12))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        corner = rng.uniform(0, 10, (16, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(3, 8, (16, 2))], 1)
        scores, classes = rng.uniform(-0.2, 1, 16), rng.integers(0, 2, 16)
        scores[3] = scores[5]
        index, valid = suppress(boxes.astype(np.float32), scores, classes)
        expected = slow_nms(boxes.astype(np.float32), scores, classes, 0.3)
        assert index[valid].tolist() == expected[:12]
    index, valid = fcos.nms(boxes[:2], jnp.array([0.0, 0.5]), classes[:2], num_boxes=4)
    assert valid.tolist() == [True, False, False, False] and index[0] == 1


@pytest.mark.slow
def test_perfect_answers_decode_to_the_boxes():
    boxes = jnp.array([[[2.0, 3, 30, 28], [40, 8, 60, 40], [0, 0, 0, 0]]])
    classes = jnp.array([[1, 0, -1]])
    found = fcos.targets(boxes, classes, (48, 64), strides=STRIDES, ranges=RANGES)
    outputs = {
        "logits": 20.0 * jax.nn.one_hot(found.classes, 3) - 10,
        "distances": found.distances,
        "centerness": jax.scipy.special.logit(
            jnp.clip(found.centerness, 1e-6, 1 - 1e-6)
        ),
    }
    seen = fcos.decode(outputs, (48, 64), strides=STRIDES, candidates=50, num_boxes=5)
    assert sorted(seen.classes[0].tolist()) == [-1, -1, -1, 0, 1]
    for box, label in zip(boxes[0, :2], (1, 0), strict=True):
        place = seen.classes[0].tolist().index(label)
        np.testing.assert_allclose(seen.boxes[0, place], box, atol=1e-3)
    assert (np.diff(seen.scores[0]) <= 0).all()


@pytest.fixture(scope="module")
def detector():
    network, options = fcos.VARIANTS["fcos_small"]
    options |= {"stem": 4, "widths": (4, 4, 8, 8), "fpn_width": 8, "head_depth": 1}
    model = network(num_classes=3, levels=2, **options)
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    return model, model.init(jax.random.key(1), images), images


def test_a_shifted_pyramid_has_the_maps_of_the_large_image(detector):
    model, variables, large = detector
    outputs, maps = model.apply(variables, large)
    small, shifted = model.apply(variables, large[:, ::2, ::2], first_level=2)
    assert (
        {k: v.shape for k, v in maps.items()}
        == {
            "level0": (2, 8, 8, 8),
            "level1": (2, 4, 4, 8),
        }
        == {k: v.shape for k, v in shifted.items()}
    )
    assert outputs["logits"].shape == small["logits"].shape == (2, 80, 3)
    assert outputs["distances"].shape == (2, 80, 4)
    assert outputs["centerness"].shape == (2, 80)
    # Before training every class has the prior 0.01.
    np.testing.assert_allclose(jax.nn.sigmoid(outputs["logits"]), 0.01, rtol=0.5)
    places, level = fcos.locations((64, 64), (8, 16))
    assert len(places) == 80 and (np.bincount(level) == [64, 16]).all()


def test_the_fusion_gate(detector):
    model, variables, large = detector
    maps = [model.apply(variables, x, method="pyramid") for x in (large, -large)]
    gate = fcos.FusionGate(hidden=3)
    weights = gate.init(jax.random.key(2), *maps)
    fused = gate.apply(weights, *maps)
    p = jax.tree.map(np.asarray, weights["params"])
    for name, (a, b) in {k: (maps[0][k], maps[1][k]) for k in maps[0]}.items():
        mean = np.concatenate([a, b], -1).mean((1, 2))
        z = np.maximum(mean @ p["squeeze"]["kernel"], 0) @ p["excite"]["kernel"]
        g = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        expected = g[:, 0, None, None, None] * a + g[:, 1, None, None, None] * b
        np.testing.assert_allclose(fused[name], expected, 1e-4, 1e-5)
    with pytest.raises(ValueError, match="one level lower"):
        gate.apply(weights, maps[0], {"level0": maps[0]["level0"]})


def test_slimming_takes_the_first_channels():
    wide = {"kernel": jnp.arange(24.0).reshape(1, 1, 4, 6), "bias": jnp.arange(6.0)}
    narrow = {"kernel": jnp.zeros((1, 1, 2, 3)), "bias": jnp.zeros(3)}
    cut = fcos.slim(wide, narrow)
    np.testing.assert_array_equal(cut["kernel"][0, 0], [[0, 1, 2], [6, 7, 8]])
    with pytest.raises(ValueError, match="expected no larger"):
        fcos.slim(narrow, wide)


def test_published_sizes():
    network, options = fcos.VARIANTS["fcos_resnet50"]
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    shapes = jax.eval_shape(network(80, **options).init, jax.random.key(0), image)
    sizes = {
        part: sum(x.size for x in jax.tree.leaves(tree))
        for part, tree in shapes["params"].items()
    }
    # torchvision's resnet50 has 25,557,032 parameters, 2,049,000 of them in its fc.
    assert sizes["backbone"] == 25_557_032 - 2_049_000
    width = 256
    conv = 9 * width * width + width
    laterals = sum(c * width + width for c in (256, 512, 1024, 2048))
    assert sizes["fpn"] == laterals + 4 * conv + (9 * 2048 * width + width) + conv
    towers = 8 * (conv + 2 * width)
    assert sizes["head"] == towers + 9 * width * (80 + 4 + 1) + 80 + 5


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"\[..., objects, 4\]"):
        fcos.targets(jnp.zeros((2, 4)), jnp.zeros(3, int), (32, 32))
    with pytest.raises(ValueError, match="one range per level"):
        fcos.targets(jnp.zeros((2, 4)), jnp.zeros(2, int), (32, 32), strides=(8,))
