"""CRRCD, AIRD with its adaptation, and SFTN as methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses, methods
from jaxkd.core import partition
from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, Spec
from jaxkd.evaluators import test_time_adaptation
from jaxkd.models.resnet import ResNet
from tests.fields import loss_of

BATCH, CLASSES, EXAMPLES = 6, 4, 20
SMALL = ResNet(CLASSES, 1, 2, (2, 3), (1, 2))
LARGE = ResNet(CLASSES, 1, 2, (2, 5), (2, 2))
FIELDS = {
    "image": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32),
    "low": jax.ShapeDtypeStruct((4, 4, 3), jnp.float32),
    "label": jax.ShapeDtypeStruct((), jnp.int32),
}
SPEC = Spec(
    SMALL, {"teacher": FrozenNetwork(LARGE)}, CLASSES, FIELDS, 10.0, EXAMPLES, "low"
)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(KEY)
    labels = jnp.arange(EXAMPLES) % CLASSES
    index = jnp.arange(BATCH) * 2
    return {
        "image": jax.random.normal(keys[0], (BATCH, 8, 8, 3)),
        "low": jax.random.normal(keys[1], (BATCH, 4, 4, 3)),
        "label": labels[index],
        "index": index,
        "train_labels": labels,
    }


def _run(batch, name, options, params=None, model_state=None):
    """Returns the method, its variables, outputs, targets and the loss's results."""
    method = methods.make(name, SPEC, options)
    if params is None:
        params, model_state = jax.jit(method.init)(KEY)
    frozen = {"teacher": jax.jit(LARGE.init)(KEY, batch["image"])}
    targets = {n: jax.jit(f)(frozen, batch, KEY) for n, f in method.targets.items()}
    outputs, model_state = jax.jit(method.forward)(params, model_state, batch, KEY)

    def loss(params):
        return loss_of(
            method, params, model_state, outputs, batch, targets, KEY, jnp.int32(0)
        )

    (value, aux), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), slope))
    return method, (params, model_state), outputs, targets, (value, aux, slope)


@pytest.mark.slow
def test_crrcd_in_the_batch(batch):
    _, (params, _), outputs, targets, (value, aux, slope) = _run(
        batch,
        "crrcd",
        {"features": 7, "temperature": 0.3, "kd_weight": 2.0, "contrast_weight": 0.5},
    )
    embedded = []
    for side, features in (
        ("student", outputs["features"]),
        ("teacher", targets["teacher"]["features"]),
    ):
        layer = params["contrast"][f"embed_{side}"]
        rows = features["pooled"] @ layer["kernel"] + layer["bias"]
        embedded.append(rows / jnp.linalg.norm(rows, axis=1, keepdims=True))
    s, t = embedded
    halves = [losses.relation_contrast(*x, temperature=0.3) for x in ((s, t), (t, s))]
    kd = losses.kd(outputs["logits"], targets["teacher"]["logits"], temperature=4.0)
    np.testing.assert_allclose(aux.metrics["contrast"], sum(halves), 1e-4)
    wanted = aux.metrics["ce"] + 2 * kd.mean() + 0.5 * sum(halves)
    np.testing.assert_allclose(value, wanted, 1e-4)
    # Each half trains its own embedding.
    for side in ("student", "teacher"):
        assert jnp.abs(slope["contrast"][f"embed_{side}"]["kernel"]).max() > 0


@pytest.mark.slow
def test_crrcd_with_memory_remembers_the_batch_alone(batch):
    options = {"negatives": 5, "features": 7, "temperature": 0.5}
    _, (params, before), *_, (_, aux, _) = _run(batch, "crrcd", options)
    old, new = before["contrast"]["memory"], aux.model_state["contrast"]["memory"]
    rest = np.setdiff1d(np.arange(EXAMPLES), batch["index"])
    for side in ("student", "teacher"):
        np.testing.assert_array_equal(old[side][rest], new[side][rest])
        assert (
            (old[side][batch["index"]] != new[side][batch["index"]]).any(axis=1).all()
        )
        np.testing.assert_allclose(jnp.linalg.norm(new[side], axis=1), 1, 1e-5)
    assert not old["started"] and new["started"]
    again = _run(batch, "crrcd", options, params, aux.model_state)[-1][1]
    np.testing.assert_array_equal(
        again.model_state["contrast"]["memory"]["normalizers"], new["normalizers"]
    )
    assert again.metrics["contrast"] != aux.metrics["contrast"]


@pytest.mark.slow
def test_aird_is_the_sum_of_its_terms(batch):
    _, (params, _), outputs, targets, (value, aux, _) = _run(
        batch,
        "aird",
        {"instance_weight": 2.0, "relation_weight": 3.0, "distance_weight": 4.0},
    )
    rows, t = outputs["features"]["pooled"], targets["teacher"]["features"]["pooled"]
    s = rows @ params["maps"]["5"]
    cosine = jnp.sum(s * t, 1) / jnp.linalg.norm(s, axis=1) / jnp.linalg.norm(t, axis=1)
    wanted = (
        aux.metrics["ce"]
        + 2 * jnp.mean(1 - cosine)
        + 3 * losses.instance_contrast(s, t, batch["label"]).mean()
        + 4 * losses.second_order(rows, t)
    )
    np.testing.assert_allclose(value, wanted, 1e-4)


def test_errors_of_options():
    spec = SPEC._replace(num_examples=None)
    with pytest.raises(UserError, match="held in memory"):
        methods.make("crrcd", spec, {"negatives": 5})
    with pytest.raises(UserError, match="expected a number >= 1e-06"):
        methods.make("crrcd", SPEC, {"temperature": 0.0})
    with pytest.raises(UserError, match=r"model\.input"):
        methods.make("aird", SPEC._replace(input_key="image"), {})
    methods.make("aird", SPEC._replace(input_key="image"), {"adapt": False})
    with pytest.raises(UserError, match="one side less"):
        _sftn(SPEC, sides=(4, 2))
    with pytest.raises(UserError, match="mode of adaptation"):
        test_time_adaptation.make_adapted(methods.make("aird", SPEC, {}), "slow")


@pytest.mark.slow
@pytest.mark.parametrize("mode", test_time_adaptation.MODES)
def test_adapted_statistics(batch, mode):
    """Against the moments of what the first batch norm is shown."""
    method = methods.make("aird", SPEC, {})
    params, model_state = jax.jit(method.init)(KEY)
    model_state = jax.tree.map(lambda x: x + 0.3, model_state)
    shifted = {"low": 3 * batch["low"] + 1, "label": batch["label"]}
    _, moved = jax.jit(test_time_adaptation.make_adapted(method, mode))(
        params, model_state, shifted
    )
    kernel = params["student"]["conv1"]["kernel"]
    shown = jax.lax.conv_general_dilated(
        shifted["low"],
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    share = {"source": 0, "batch": 1, "blend": BATCH / (BATCH + 16), "ema": 0.1}[mode]
    own = model_state["student"]["batch_stats"]["bn1"]
    got = moved["student"]["batch_stats"]["bn1"]
    for name, moment in (
        ("mean", shown.mean((0, 1, 2))),
        ("var", shown.var((0, 1, 2))),
    ):
        wanted = (1 - share) * own[name] + share * moment
        np.testing.assert_allclose(got[name], wanted, 1e-4, 1e-4)


def test_adaptation_undoes_a_change_of_brightness(batch):
    """Networks that are normalised by the batch do not see contrast or offset much."""
    method = methods.make("aird", SPEC, {})
    params, model_state = jax.jit(method.init)(KEY)
    _, model_state = jax.jit(test_time_adaptation.make_adapted(method, "batch"))(
        params, model_state, batch
    )
    changed = batch | {"low": 0.2 * batch["low"]}
    plain = jax.jit(method.predict)(params, model_state, batch)["logits"]
    errors = {
        mode: jnp.abs(
            jax.jit(test_time_adaptation.make_adapted(method, mode))(
                params, model_state, changed
            )[0]["logits"]
            - plain
        ).max()
        for mode in ("source", "batch")
    }
    assert errors["batch"] < 0.05 * errors["source"]


def test_one_sided_batches_are_noticed():
    rng = np.random.default_rng(0)
    assert not test_time_adaptation.is_one_sided(rng.integers(0, 100, 250), 100)
    assert test_time_adaptation.is_one_sided(rng.integers(0, 6, 250), 100)
    # Six classes by a classifier that is right once in three times.
    right, wrong = rng.integers(0, 6, 250), rng.integers(0, 100, 250)
    weak = np.where(rng.random(250) < 1 / 3, right, wrong)
    assert len(np.unique(weak)) > 60 and test_time_adaptation.is_one_sided(weak, 100)
    assert not test_time_adaptation.is_one_sided(np.arange(3), 100)


def _sftn(spec, **options):
    given = {"widths": (2, 3), "strides": (1, 2), "sides": (4,)} | options
    return methods.make("sftn", spec, given)


@pytest.mark.slow
@pytest.mark.parametrize("teacher_gradient", [True, False])
def test_sftn_trains_teacher_and_branch(batch, teacher_gradient):
    spec = SPEC._replace(network=LARGE, input_key="image", frozen={})
    method = _sftn(
        spec, branch_ce_weight=0.0, ce_weight=0.0, teacher_gradient=teacher_gradient
    )
    params, model_state = jax.jit(method.init)(KEY)
    assert set(params) == {"student", "branches"}
    assert set(params["branches"]) == {"stage1"}

    def loss(params):
        outputs, after = method.forward(params, model_state, batch, KEY)
        return loss_of(method, params, after, outputs, batch, {}, KEY, jnp.int32(0))

    (value, aux), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(value, 3 * aux.metrics["branch_kl"], 1e-5)
    assert value > 0
    # The teacher's last layer is reached by the divergence alone.
    reached = jnp.abs(slope["student"]["fc"]["kernel"]).max()
    assert (reached > 0) == teacher_gradient
    assert jnp.abs(slope["student"]["conv1"]["kernel"]).max() > 0
    assert jnp.abs(slope["branches"]["stage1"]["fc"]["kernel"]).max() > 0
    changed = aux.model_state["branches"]["stage1"]["batch_stats"]["enter_bn"]["mean"]
    assert jnp.abs(changed).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [True, False])
def test_gdrd_trains_the_head_alone(batch, freeze):
    options = {
        "head": ("stage2", "fc"),
        "freeze": freeze,
        "kd_weight": 2.0,
        "contrast_weight": 0.5,
    }
    _, (params, _), outputs, targets, (value, aux, _) = _run(batch, "gdrd", options)
    kd = losses.kd(outputs["logits"], targets["teacher"]["logits"], temperature=4.0)
    rows = outputs["features"]["pooled"] @ params["maps"]["5"]
    pair = [
        x / jnp.linalg.norm(x, axis=1, keepdims=True)
        for x in (rows, targets["teacher"]["features"]["pooled"])
    ]
    wanted = aux.metrics["ce"] + 2 * kd.mean() + 0.5 * losses.relation_contrast(*pair)
    np.testing.assert_allclose(value, wanted, 1e-4)
    method = methods.make("gdrd", SPEC, options)
    _, model_state = jax.jit(method.init)(KEY)

    def loss(params):
        seen, after = method.forward(params, model_state, batch, KEY)
        return loss_of(method, params, after, seen, batch, targets, KEY, jnp.int32(0))[
            0
        ]

    slope = jax.jit(jax.grad(loss))(params)
    labels = partition.leaf_labels(method.trainable, params)
    trained = partition.part(slope, labels, None)["student"]
    moved = {
        name
        for name, layer in trained.items()
        if any(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(layer))
    }
    everything = set(slope["student"])
    assert moved == ({"stage2_block0", "fc"} if freeze else everything)


@pytest.mark.slow
def test_gdrd_predicts_the_generators_features(batch):
    generator = FrozenNetwork(LARGE)
    spec = SPEC._replace(frozen={"generator": generator})
    method = methods.make(
        "gdrd",
        spec,
        {"stage": "generative", "layer": "stage1", "generator_layer": "stage2"},
    )
    params, model_state = jax.jit(method.init)(KEY)
    frozen = {"generator": jax.jit(LARGE.init)(KEY, batch["image"])}
    targets = {n: jax.jit(f)(frozen, batch, KEY) for n, f in method.targets.items()}
    outputs, model_state = jax.jit(method.forward)(params, model_state, batch, KEY)
    value, _ = jax.jit(functools.partial(loss_of, method))(
        params, model_state, outputs, batch, targets, KEY, jnp.int32(0)
    )
    s = outputs["features"]["stage1"] @ params["maps"]["5"]
    t = targets["generator"]["features"]["stage2"]
    # The student's map is 4 x 4, the generator's 2 x 2 is spread over it.
    t = np.asarray(losses.adaptive_average_pool(t, (4, 4)), np.float64)
    t = (t - t.mean((0, 1, 2))) / t.std((0, 1, 2))
    s = s - s.mean((0, 1, 2))
    np.testing.assert_allclose(value, ((s - t) ** 2).mean() / (t**2).mean(), 1e-4)


def test_errors_of_gdrd():
    with pytest.raises(UserError, match="stage of method 'gdrd'"):
        methods.make("gdrd", SPEC, {"stage": "third"})
    with pytest.raises(UserError, match="has no layer stage9"):
        methods.make("gdrd", SPEC, {"head": ("stage9",)})
    with pytest.raises(UserError, match=r"needs\.generator"):
        methods.make("gdrd", SPEC, {"stage": "generative"})
