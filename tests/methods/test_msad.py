"""MSAD's losses against NumPy, its teacher and student, and the binned precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, LossInputs, Spec
from jaxkd.methods import detection as baseline
from jaxkd.methods import msad
from jaxkd.methods.common import detection
from jaxkd.metrics.detection import ImageBoxes, average_precision
from jaxkd.models import fcos

WHERE = detection.Layout((32, 32), (8, 16), ((-1.0, 24.0), (24.0, float("inf"))))


def draw_outputs(seed=0, classes=3):
    rng = np.random.default_rng(seed)
    return {
        "logits": rng.normal(size=(2, 20, classes)),
        "distances": rng.uniform(0.1, 3, (2, 20, 4)),
        "centerness": rng.normal(size=(2, 20)),
    }


BATCH = {
    "boxes": jnp.array(
        [[[2.0, 2, 20, 22], [0, 0, 0, 0]], [[0, 0, 32, 30], [20, 4, 30, 14]]]
    ),
    "classes": jnp.array([[1, -1], [0, 2]]),
}


def test_head_losses_location_by_location():
    outputs = draw_outputs()
    found = detection.head_losses(jax.tree.map(jnp.asarray, outputs), BATCH, WHERE)
    truth = fcos.targets(
        BATCH["boxes"],
        BATCH["classes"],
        (32, 32),
        strides=WHERE.strides,
        ranges=WHERE.ranges,
    )
    focal = box = weights = centre = count = 0.0
    for b, i in np.ndindex(2, 20):
        label, weight = int(truth.classes[b, i]), float(truth.centerness[b, i])
        for c, z in enumerate(outputs["logits"][b, i]):
            p = 1 / (1 + np.exp(-z)) if c == label else 1 / (1 + np.exp(z))
            alpha = 0.25 if c == label else 0.75
            focal += -alpha * (1 - p) ** 2 * np.log(p)
        if label < 0:
            continue
        count += 1
        (a, t, r, d), (x, y, u, v) = outputs["distances"][b, i], truth.distances[b, i]
        inter = (min(a, x) + min(r, u)) * (min(t, y) + min(d, v))
        union = (a + r) * (t + d) + (x + u) * (y + v) - inter
        hull = (max(a, x) + max(r, u)) * (max(t, y) + max(d, v))
        box += weight * (1 - inter / union + (hull - union) / hull)
        weights += weight
        q = 1 / (1 + np.exp(-outputs["centerness"][b, i]))
        centre += -weight * np.log(q) - (1 - weight) * np.log(1 - q)
    assert count > 4
    np.testing.assert_allclose(found["class"], focal / count, 1e-4)
    np.testing.assert_allclose(found["box"], box / weights, 1e-4)
    np.testing.assert_allclose(found["centerness"], centre / count, 1e-4)


@pytest.mark.slow
def test_a_batch_without_objects_is_finite():
    empty = {"boxes": jnp.zeros((2, 1, 4)), "classes": jnp.full((2, 1), -1)}

    def total(outputs):
        return sum(detection.head_losses(outputs, empty, WHERE).values())

    outputs = jax.tree.map(jnp.asarray, draw_outputs())
    value, slopes = jax.value_and_grad(total)(outputs)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    assert not slopes["distances"].any()


@pytest.mark.slow
def test_binned_precision_is_close_to_cocos():
    rng = np.random.default_rng(0)
    boxes, classes = np.zeros((30, 3, 4), np.float32), rng.integers(-1, 2, (30, 3))
    corner = rng.uniform(0, 40, (30, 3, 2))
    boxes[..., :2], boxes[..., 2:] = corner, corner + rng.uniform(8, 20, (30, 3, 2))
    guesses = np.concatenate([boxes, boxes[:, ::-1]], axis=1)
    guesses = guesses + rng.normal(size=guesses.shape) * 1.5
    labels = np.where(rng.uniform(size=(30, 6)) < 0.8, np.tile(classes, 2)[:, :6], 1)
    scores = np.where(labels >= 0, rng.uniform(0.05, 1, (30, 6)), 0)
    order = np.argsort(-scores, axis=1)
    guesses = np.take_along_axis(guesses, order[..., None], 1).astype(np.float32)
    labels, scores = (np.take_along_axis(x, order, 1) for x in (labels, scores))
    found = fcos.Detections(*map(jnp.asarray, (guesses, scores, labels)))
    halves = [
        detection.BinnedPrecision.from_model_output(
            detections=jax.tree.map(lambda x, part=part: x[part], found),
            boxes=jnp.asarray(boxes[part]),
            classes=jnp.asarray(classes[part]),
            mask=jnp.ones(15, bool),
            num_classes=2,
        )
        for part in (slice(0, 15), slice(15, 30))
    ]
    value = halves[0].merge(halves[1]).compute()
    reference = average_precision(
        [ImageBoxes(*one) for one in zip(guesses, labels, scores, strict=True)],
        [ImageBoxes(*one) for one in zip(boxes, classes, strict=True)],
    )
    assert 0.1 < reference["ap50"] < 0.95
    assert abs(float(value) - reference["ap50"]) < 0.02
    masked = detection.BinnedPrecision.from_model_output(
        detections=found,
        boxes=jnp.asarray(boxes),
        classes=jnp.asarray(classes),
        mask=jnp.zeros(30, bool),
        num_classes=2,
    )
    assert np.isnan(masked.compute())


def network(**options):
    _, small = fcos.VARIANTS["fcos_small"]
    small = small | {"stem": 4, "widths": (4, 4, 4, 4), "fpn_width": 8, "head_depth": 1}
    return fcos.FCOS(num_classes=3, levels=2, **small | options)


def spec(**changes):
    fields = {
        "image": ((32, 32, 3), jnp.float32),
        "low": ((16, 16, 3), jnp.float32),
        "boxes": ((2, 4), jnp.float32),
        "classes": ((2,), jnp.int32),
    }
    run = Spec(
        network=network(),
        frozen={"teacher": FrozenNetwork(network(fusion=True))},
        num_classes=3,
        fields={name: jax.ShapeDtypeStruct(*one) for name, one in fields.items()},
        steps_per_unit=1.0,
        input_key="low",
    )
    return run._replace(**changes)


@pytest.mark.slow
def test_teacher_and_student():
    key = jax.random.key(0)
    large = jax.random.normal(key, (2, 32, 32, 3))
    batch = BATCH | {"image": large, "low": large[:, ::2, ::2]}
    run = spec()
    first = msad.make(
        run._replace(network=network(fusion=True), input_key="image"), stage="teacher"
    )
    params, state = jax.jit(first.init)(key)
    outputs, state = jax.jit(first.forward)(params, state, batch, key)
    step = jnp.zeros((), int)
    found = first.loss(LossInputs(params, state, outputs, batch, {}, key, step))
    by_hand = 0.0
    for name, weight in (("large", 1), ("small", 1), ("fused", 0.4)):
        parts = detection.head_losses(outputs[name], batch, WHERE)
        by_hand += weight * sum(parts.values())
    np.testing.assert_allclose(found.value, by_hand, 1e-5)

    second = msad.make(run, warmup=10.0)
    frozen = {"teacher": {"params": params["student"], **state["student"]}}
    own, own_state = second.warm_start(*jax.jit(second.init)(key), frozen)
    kernel = own["student"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        kernel, params["student"]["backbone"]["conv1"]["kernel"]
    )
    targets = {"teacher": jax.jit(second.targets["teacher"])(frozen, batch, key)}
    outputs, own_state = jax.jit(second.forward)(own, own_state, batch, key)
    inputs = LossInputs(own, own_state, outputs, batch, targets, key, step + 5)
    found = second.loss(inputs)
    apart = losses.pyramid_distance(outputs["features"], targets["teacher"]).mean()
    expected = sum(detection.head_losses(outputs["head"], batch, WHERE).values())
    np.testing.assert_allclose(found.value, expected + 0.5 * 0.2 * apart, 1e-5)
    assert apart > 0
    predicted = jax.jit(second.predict)(own, own_state, batch)
    assert predicted["boxes"].shape == (2, 20, 4)


@pytest.mark.parametrize(("most", "expected"), [(5, 20), (9, 36), (100, 100)])
def test_crowded_images_keep_as_many_boxes_as_coco_counts(most, expected):
    shapes = {"boxes": (most, 4), "classes": (most,)}
    fields = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    run = spec(fields=spec().fields | fields)
    method = baseline.make(run)
    params, state = jax.eval_shape(method.init, jax.random.key(0))
    batch = {"low": jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)}
    found = jax.eval_shape(method.predict, params, state, batch)
    assert found["boxes"].shape == (1, expected, 4)


def test_what_does_not_fit():
    run = spec()
    with pytest.raises(UserError, match="The teacher has no gate"):
        msad.make(spec(frozen={"teacher": FrozenNetwork(network())}))
    with pytest.raises(UserError, match="reads 'low' of the fields"):
        msad.make(run._replace(network=network(fusion=True)), stage="teacher")
    with pytest.raises(UserError, match=r"multiples of the largest stride 16"):
        fields = run.fields | {"image": jax.ShapeDtypeStruct((40, 40, 3), jnp.float32)}
        baseline.make(run._replace(fields=fields))
    with pytest.raises(UserError, match="expected that size or half of it"):
        fields = run.fields | {"low": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)}
        baseline.make(run._replace(fields=fields))
    with pytest.raises(UserError, match="their networks differ"):
        msad.from_teacher("teacher")(
            {"student": {"a": jnp.zeros(2)}},
            {"student": {}},
            {"teacher": {"params": {"a": jnp.zeros(3)}}},
        )
