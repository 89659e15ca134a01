"""Metric learning, IPN and AT+: their sums, their refusals, and what they measure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses, methods, models
from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, Spec
from jaxkd.evaluators import recognition
from jaxkd.methods.common import embedding
from jaxkd.readers.identity_pairs import Pairs
from tests.fields import loss_of
from tests.methods.feature_net import jit

CLASSES, BATCH = 5, 8
TINY = {"stem": 2, "widths": (2, 3), "strides": (1, 2)}
build = functools.partial(models.build, num_classes=CLASSES)
EMBED = build("embed8", width=4, **TINY)
CLASSIFY = build("resnet8", **TINY)


def image_fields(side=8):
    shape = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
    label = jax.ShapeDtypeStruct((), jnp.int32)
    return {"image": shape, "low": shape, "label": label}


def make_spec(network=EMBED, teacher=EMBED, **changes):
    frozen = {} if teacher is None else {"teacher": FrozenNetwork(teacher)}
    plain = Spec(network, frozen, CLASSES, image_fields(), 10.0, input_key="low")
    return plain._replace(**changes)


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(0), 2)
    images = [jax.random.normal(key, (BATCH, 8, 8, 3)) for key in keys]
    labels = jnp.array([0, 0, 1, 1, 2, 2, 3, 4])
    return {"image": images[0], "low": images[1], "label": labels}


@functools.cache
def variables(network, seed=7):
    return jit(network.init)(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))


def run(name, batch, options, network=EMBED, teacher=EMBED):
    """Returns a step's loss, its metrics, both networks' outputs, the parameters."""
    method = methods.make(name, make_spec(network, teacher), options)
    params, model_state = jit(method.init)(jax.random.key(1))
    frozen = {"teacher": None if teacher is None else variables(teacher)}

    @jit
    def step(params, model_state, batch):
        key = jax.random.key(2)
        targets = {n: f(frozen, batch, key) for n, f in method.targets.items()}
        outputs, model_state = method.forward(params, model_state, batch, key)
        value, aux = loss_of(
            method, params, model_state, outputs, batch, targets, key, 3
        )
        taught = None
        if teacher is not None:
            logits, features = teacher.apply(frozen["teacher"], batch["image"])
            taught = {"logits": logits, "features": features}
        return value, aux.metrics, outputs, taught

    value, metrics, outputs, taught = step(params, model_state, batch)
    return value, metrics, outputs, taught, params


def gap(a, b):
    a, b = (np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return np.mean(1 - (a * b).sum(1))


@pytest.mark.slow
def test_metric_learning_adds_up(batch):
    weights = {"direction": 2.0, "distance": 3.0, "angle": 5.0, "kd": 7.0}
    options = {"labels": "arcface", "margin": 0.3, "scale": 8.0}
    options |= {f"{name}_weight": weight for name, weight in weights.items()}
    value, metrics, outputs, taught, _ = run("metric_learning", batch, options)

    @jit
    def parts(own, other):
        rows = own["features"]["embedding"], other["features"]["embedding"]
        logits = own["logits"], other["logits"]
        return {
            "arcface": _arcface(own["features"]["cosines"], batch["label"]),
            "distance": losses.rkd_distance(*rows),
            "angle": losses.rkd_angle(*rows),
            "kd": losses.kd(*logits, temperature=4.0).mean(),
        }

    wanted = parts(outputs, taught)
    both = (x["features"]["embedding"] for x in (outputs, taught))
    wanted["direction"] = gap(*both)
    total = wanted["arcface"] + sum(weights[n] * wanted[n] for n in weights)
    np.testing.assert_allclose(value, total, 1e-4)
    for name, one in wanted.items():
        np.testing.assert_allclose(metrics[name], one, 1e-4, err_msg=name)


def _arcface(cosines, labels):
    return losses.arcface(cosines, labels, margin=0.3, scale=8.0).mean()


@pytest.mark.slow
def test_relations_alone(batch):
    options = {"labels": "none", "distance_weight": 1.0, "angle_weight": 2.0}
    value, metrics, *_ = run("metric_learning", batch, options)
    assert set(metrics) == {"top1", "distance", "angle"}
    np.testing.assert_allclose(value, metrics["distance"] + 2 * metrics["angle"], 1e-5)


def test_triplets_need_no_teacher(batch):
    options = {"labels": "triplet"}
    value, metrics, *_ = run("metric_learning", batch, options, teacher=None)
    assert float(value) == float(metrics["triplet"]) > 0


def test_what_metric_learning_refuses():
    make = functools.partial(methods.make, "metric_learning")
    with pytest.raises(UserError, match="leaves nothing to learn"):
        make(make_spec(), {"labels": "none"})
    with pytest.raises(UserError, match="labels is 'arc', expected one of"):
        make(make_spec(), {"labels": "arc"})
    with pytest.raises(UserError, match="learns from another run, 'teacher'"):
        make(make_spec(teacher=None), {"kd_weight": 1.0})
    with pytest.raises(UserError, match="needs a network with an embedding, but"):
        make(make_spec(CLASSIFY), {})
    with pytest.raises(UserError, match=r"sides is \(4, 9\), expected 1 to 8"):
        make(make_spec(), {"sides": (4, 9)})


def test_embeddings_of_other_widths(batch):
    wide = build("embed8", width=6, **TINY)
    with pytest.raises(UserError, match="embedding has 4 numbers and the teacher's 6"):
        run("metric_learning", batch, {"direction_weight": 1.0}, teacher=wide)


@pytest.mark.slow
def test_ipn_adds_up(batch):
    teacher = build("embed8_wavelets", width=4, **TINY)
    options = {"margin": 0.3, "scale": 8.0}
    options |= {"direction_weight": 2.0, "wavelet_weight": 3.0}
    value, metrics, outputs, taught, _ = run("ipn", batch, options, teacher=teacher)
    maps = []
    for name in ("stage1", "stage2"):
        blocks = [
            np.asarray(x["features"][name])
            .reshape(BATCH, -1, 2, *(s, 2), w)
            .sum((2, 4))
            for x in (outputs, taught)
            for s, w in [
                (x["features"][name].shape[1] // 2, x["features"][name].shape[3])
            ]
        ]
        maps.append(gap(*(x.reshape(BATCH, -1) for x in blocks)))
    np.testing.assert_allclose(metrics["wavelet"], np.mean(maps), 1e-4)
    arcface = jit(_arcface)(outputs["features"]["cosines"], batch["label"])
    direction = gap(*(x["features"]["embedding"] for x in (outputs, taught)))
    np.testing.assert_allclose(value, arcface + 2 * direction + 3 * np.mean(maps), 1e-4)


def test_ipn_refuses_maps_of_other_shapes(batch):
    other = build("embed8", width=4, **TINY | {"widths": (2, 5)})
    with pytest.raises(UserError, match="IPN compares maps of the shapes"):
        run("ipn", batch, {}, teacher=other)


@pytest.mark.slow
def test_at_plus_adds_up(batch):
    options = {"attention_weight": 2.0, "features_weight": 3.0}
    options |= {"kd_weight": 5.0, "regression_weight": 7.0}
    value, metrics, outputs, taught, params = run(
        "at_plus", batch, options, CLASSIFY, CLASSIFY
    )
    head = variables(CLASSIFY)["params"]["fc"]
    own, other = (x["features"]["stage2"] for x in (outputs, taught))

    def look(features, kernel):
        weights = losses.gradient_weights(
            lambda f: jnp.mean(f, (1, 2)) @ kernel, features
        )
        return losses.class_attention(features, weights)

    @jit
    def attention(own, other, kernel):
        maps = look(own, kernel), look(other, head["kernel"])
        return losses.attention_plus(*maps).mean()

    logits, known = np.asarray(outputs["logits"]), np.asarray(batch["label"])
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    soft = np.exp(taught["logits"])
    soft = soft / soft.sum(1, keepdims=True)
    told = outputs["features"]["pooled"] @ head["kernel"] + head["bias"]
    wanted = {
        "ce": -log[np.arange(BATCH), known].mean(),
        "attention": attention(own, other, params["student"]["fc"]["kernel"]),
        "features": np.sqrt(np.mean((np.asarray(own) - np.asarray(other)) ** 2)),
        "kd": -(soft * log).sum(1).mean(),
    }
    regression = np.sqrt(np.mean((np.asarray(told) - taught["logits"]) ** 2))
    total = wanted["ce"] + 2 * wanted["attention"] + 3 * wanted["features"]
    np.testing.assert_allclose(value, total + 5 * wanted["kd"] + 7 * regression, 1e-4)
    for name, one in wanted.items():
        np.testing.assert_allclose(metrics[name], one, 1e-4, err_msg=name)


def test_what_at_plus_refuses(batch):
    with pytest.raises(UserError, match="needs a teacher that ends in a linear layer"):
        run("at_plus", batch, {}, CLASSIFY, EMBED)
    other = build("resnet8", **TINY | {"strides": (2, 2)})
    with pytest.raises(UserError, match=r"AT\+ compares last stages of the shapes"):
        run("at_plus", batch, {}, CLASSIFY, other)


RELATED = {"layer": "embedding"}


@pytest.mark.slow
def test_horkd_relates_embeddings(batch):
    weights = {"first": 2.0, "second": 3.0, "third": 5.0}
    options = RELATED | {f"{name}_weight": weight for name, weight in weights.items()}
    value, metrics, outputs, taught, _ = run("horkd", batch, options)
    s, t = (np.asarray(x["features"]["embedding"]) for x in (outputs, taught))
    wanted = {
        "first": 2 * gap(s, t),  # the squared distance of two directions
        "second": losses.second_order(s, t),
        "third": losses.third_order(s, t),
    }
    total = metrics["ce"] + sum(weights[n] * wanted[n] for n in weights)
    np.testing.assert_allclose(value, total, 1e-4)


@pytest.mark.slow
def test_crrcd_relates_embeddings(batch):
    options = RELATED | {"kd_weight": 0.0, "features": 6, "temperature": 0.3}
    _, metrics, outputs, taught, params = run("crrcd", batch, options)
    embedded = []
    for side, x in (("student", outputs), ("teacher", taught)):
        layer = params["contrast"][f"embed_{side}"]
        rows = x["features"]["embedding"] @ layer["kernel"] + layer["bias"]
        embedded.append(rows / jnp.linalg.norm(rows, axis=1, keepdims=True))
    s, t = embedded
    halves = [losses.relation_contrast(*x, temperature=0.3) for x in ((s, t), (t, s))]
    np.testing.assert_allclose(metrics["contrast"], sum(halves), 1e-4)


@pytest.mark.parametrize("name", ["horkd", "crrcd"])
def test_students_that_relate_embeddings_are_verified(name):
    make = functools.partial(methods.make, name)
    method = make(make_spec(), RELATED)
    assert method.score == embedding.SCORE
    assert method.evaluator is recognition.evaluate
    assert make(make_spec(), {}).score.name == "top1"
    with pytest.raises(UserError, match=r"needs\.teacher has only .*pooled"):
        make(make_spec(teacher=CLASSIFY), RELATED)
    with pytest.raises(UserError, match="needs a network with an embedding"):
        make(make_spec(CLASSIFY), RELATED)
    with pytest.raises(UserError, match="verified, not classified"):
        make(make_spec(), RELATED | {"eval_sizes": (4,)})


def counted(embeddings, labels):
    """The best mean of both kinds' accuracies, over thresholds between bins."""
    rows = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), k=1)
    cosines = (rows[first] * rows[second]).sum(1)
    same = labels[first] == labels[second]
    edges = np.linspace(-1, 1, embedding.BINS + 1)
    return max(
        (np.mean(cosines[~same] < e) + np.mean(cosines[same] >= e)) / 2 for e in edges
    )


def test_pair_accuracy_by_counting():
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3
    rows = rng.normal(size=(12, 4)) + 2 * rng.normal(size=(3, 4))[labels]
    outputs = {
        "logits": jnp.asarray(rng.normal(size=(12, 3))),
        "features": {"embedding": jnp.asarray(rows)},
    }
    mask = np.arange(12) < 10  # two examples of padding
    batch = {"label": jnp.asarray(labels), "mask": jnp.asarray(mask)}

    @jit
    def measure(outputs, batch):
        found = embedding.evaluate(outputs, batch)
        # Batches are compared within themselves, and their counts added.
        return found.pairs.compute(), found.merge(found).pairs.compute()

    wanted = counted(rows[:10], labels[:10])
    np.testing.assert_allclose(measure(outputs, batch), wanted, 1e-6)


def test_measures_of_perfect_and_of_empty_embeddings():
    labels = np.repeat(np.arange(20), 3)
    first, second = np.triu_indices(60, k=1)
    same = labels[first] == labels[second]
    pairs = Pairs(first, second, same, np.arange(len(first)) % 10)
    perfect = recognition.measure(np.eye(20)[labels], labels, pairs)
    assert perfect["verification"] == perfect["recall_at_1"] == 100
    assert perfect["eer"] == 0 and perfect["tar_at_0.001"] == 100
    assert 0 < perfect["threshold"] < 1
    noise = np.random.default_rng(0).normal(size=(60, 8))
    chance = recognition.measure(noise, labels, pairs)
    assert abs(chance["eer"] - 50) < 15 and chance["recall_at_1"] < 30
    alone = recognition.measure(noise, np.arange(60), None)
    assert alone == {}
