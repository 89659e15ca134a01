import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from jaxkd.core.types import FrozenNetwork, Spec
from jaxkd.methods.common import classification, terms
from jaxkd.methods.common.networks import frozen_outputs
from tests.fields import fields

CLASSES, SHAPE = 7, (2, 2, 1)
QUICK = {"xla_backend_optimization_level": 0}  # tests compile more than they compute
evaluate = jax.jit(classification.evaluate, compiler_options=QUICK)


class Net(nn.Module):
    """Batch norm, then one product."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.75, name="bn")(x)
        return nn.Dense(self.num_classes, name="fc")(x), {"flat": x}


def make_batch(count, seed=0, mask=None):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, count)
    labels[: count // 2] = logits[: count // 2].argmax(1)  # half of them right
    mask = np.ones(count, bool) if mask is None else mask
    return {"logits": logits}, {"label": labels, "mask": mask}


def values_of(outputs, batch):
    return jax.device_get(evaluate(outputs, batch).compute())


def check_against_sklearn(values, logits, labels):
    classes = np.arange(CLASSES)
    for k, name in ((1, "top1"), (5, "top5")):
        wanted = top_k_accuracy_score(labels, logits, k=k, labels=classes)
        np.testing.assert_allclose(values[name], wanted, rtol=1e-6)
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    wanted = log_loss(labels, p, labels=classes)
    np.testing.assert_allclose(values["loss"], wanted, rtol=1e-5)
    wanted = confusion_matrix(labels, logits.argmax(1), labels=classes)
    np.testing.assert_array_equal(values["confusion"], wanted)


def test_evaluation_equals_scikit_learn():
    outputs, batch = make_batch(60)
    check_against_sklearn(values_of(outputs, batch), outputs["logits"], batch["label"])


@pytest.mark.parametrize("rubbish", [0.0, 1e9, np.nan])
def test_padding_does_not_count(rubbish):
    mask = np.random.default_rng(1).random(60) < 0.7
    outputs, batch = make_batch(60, mask=mask)
    kept = outputs["logits"][mask], batch["label"][mask]
    outputs["logits"][~mask] = rubbish
    check_against_sklearn(values_of(outputs, batch), *kept)


def test_batches_merge_to_the_whole():
    parts = [make_batch(60, seed) for seed in range(3)]
    merged = evaluate(*parts[0])
    for part in parts[1:]:
        merged = merged.merge(evaluate(*part))
    logits = np.concatenate([outputs["logits"] for outputs, _ in parts])
    labels = np.concatenate([batch["label"] for _, batch in parts])
    check_against_sklearn(jax.device_get(merged.compute()), logits, labels)


def test_of_equal_logits_the_first_is_the_prediction():
    logits = np.zeros((CLASSES, CLASSES), np.float32)
    batch = {"label": np.arange(CLASSES), "mask": np.ones(CLASSES, bool)}
    values = values_of({"logits": logits}, batch)
    # A network that tells nothing apart is right about one class in seven.
    np.testing.assert_allclose(values["top1"], 1 / CLASSES, rtol=1e-6)
    np.testing.assert_allclose(values["top5"], 5 / CLASSES, rtol=1e-6)
    np.testing.assert_array_equal(values["confusion"][:, 0], np.ones(CLASSES))


def test_top1_is_the_share_of_the_diagonal_whatever_the_ties():
    rng = np.random.default_rng(3)
    logits = rng.integers(0, 3, (60, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 60)
    values = values_of({"logits": logits}, {"label": labels, "mask": np.ones(60, bool)})
    share = np.trace(values["confusion"]) / 60
    np.testing.assert_allclose(values["top1"], share, rtol=1e-6)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    wanted = (order == labels[:, None]).any(1).mean()
    np.testing.assert_allclose(values["top5"], wanted, rtol=1e-6)


def test_a_network_that_has_diverged_is_never_right():
    logits = np.full((4, CLASSES), np.nan, np.float32)
    batch = {"label": np.arange(1, 5), "mask": np.ones(4, bool)}
    values = values_of({"logits": logits}, batch)
    assert values["top1"] == 0
    assert np.isnan(values["loss"])


def test_a_logit_that_is_no_number_never_counts_for_the_network():
    """Neither the label's nor another class's; the confusion agrees."""
    logits = np.tile(np.arange(CLASSES, dtype=np.float32), (3, 1))
    labels = np.full(3, CLASSES - 1)  # of the largest logit
    logits[1, -1] = np.nan
    logits[2, 0] = np.nan
    batch = {"label": labels, "mask": np.ones(3, bool)}
    values = values_of({"logits": logits}, batch)
    np.testing.assert_allclose(values["top1"], 1 / 3, rtol=1e-6)
    # Of the last, one class is above the label; of the one before, all are.
    np.testing.assert_allclose(values["top5"], 2 / 3, rtol=1e-6)
    confusion = np.zeros((CLASSES, CLASSES), int)
    confusion[-1, [-1, -2, 0]] = 1
    np.testing.assert_array_equal(values["confusion"], confusion)


def test_fewer_than_five_classes_are_always_among_the_first_five():
    logits = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    batch = {"label": np.arange(20) % 3, "mask": np.ones(20, bool)}
    assert values_of({"logits": logits}, batch)["top5"] == 1


def test_training_accuracy_and_cross_entropy():
    outputs, batch = make_batch(40)
    logits, labels = outputs["logits"].astype(np.float64), batch["label"]
    picked = logits[np.arange(40), labels] - np.log(np.exp(logits).sum(1))
    got = classification.cross_entropy(outputs, batch)
    np.testing.assert_allclose(got, -picked.mean(), rtol=1e-5)
    got = classification.accuracy(outputs["logits"], batch)
    np.testing.assert_allclose(got, (logits.argmax(1) == labels).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("examples", "batch", "duration"),
    [(50_000, 64, 20), (50_000, 128, 20), (800, 8, 5), (100, 96, 7), (1000, 1000, 3)],
)
def test_ramp_is_constant_within_an_epoch(examples, batch, duration):
    per_unit = examples / batch
    steps = np.arange(int((duration + 2) * per_unit))
    got = jax.device_get(terms.ramp(jnp.asarray(steps), duration, per_unit))
    first, last = steps * batch // examples, (steps * batch + batch - 1) // examples
    inside = first == last  # batches that straddle two epochs may count to either
    wanted = np.minimum((first + 1) / duration, 1)
    np.testing.assert_allclose(got[inside], wanted[inside], rtol=1e-6)
    assert (got >= wanted - 1e-6).all() and (np.diff(got) >= -1e-6).all()


def test_ramp_at_whole_epochs():
    for epoch in range(1, 25):
        step = (epoch - 1) * 1000
        for inside in (0, 1, 999):
            got = terms.ramp(jnp.asarray(step + inside), 20.0, 1000.0)
            assert float(got) == pytest.approx(min(epoch / 20, 1), rel=1e-6)


def test_ramp_counted_in_steps():
    got = terms.ramp(jnp.arange(100), 80.0, 1.0)
    np.testing.assert_allclose(got, np.minimum(np.arange(1, 101) / 80, 1), rtol=1e-6)


def test_no_ramp():
    assert float(terms.ramp(jnp.asarray(0), 0.0, 100.0)) == 1


def spec_of(network, frozen=None):
    return Spec(network, frozen or {}, network.num_classes, fields(SHAPE), 1.0)


def make_method(spec):
    return classification.classifier(spec, lambda *_: (0.0, {}), ())


@pytest.fixture(scope="module")
def method():
    return make_method(spec_of(Net()))


def test_forward_trains_and_predict_does_not(method):
    params, model_state = method.init(jax.random.key(0))
    params["beside"] = {"memory": jnp.ones(3)}
    model_state["beside"] = {"queue": jnp.ones(2)}
    images = np.random.default_rng(0).normal(2, 3, (16, *SHAPE)).astype(np.float32)
    batch = {"image": jnp.asarray(images)}
    outputs, changed = method.forward(params, model_state, batch, jax.random.key(1))
    flat = images.reshape(16, -1).astype(np.float64)
    normal = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    kernel = np.asarray(params["student"]["fc"]["kernel"], np.float64)
    np.testing.assert_allclose(outputs["logits"], normal @ kernel, atol=1e-4)
    np.testing.assert_allclose(outputs["features"]["flat"], normal, atol=1e-4)
    mean = changed["student"]["batch_stats"]["bn"]["mean"]
    np.testing.assert_allclose(mean, 0.25 * flat.mean(0), rtol=1e-5)
    assert (
        changed["beside"] is model_state["beside"]
    )  # what others remember is passed on
    # Evaluation uses the statistics at hand: still mean 0 and variance 1.
    predicted = method.predict(params, model_state, batch)
    wanted = flat / np.sqrt(1 + 1e-5) @ kernel
    np.testing.assert_allclose(predicted["logits"], wanted, atol=1e-4)


def test_functions_of_one_network_are_the_same_objects(method):
    alike = make_method(spec_of(Net()))
    assert alike.init is method.init and alike.forward is method.forward
    other = make_method(spec_of(Net(num_classes=3)))
    assert other.init is not method.init and other.forward is not method.forward


def test_the_teacher_is_evaluated_without_gradient():
    network = Net()
    variables = network.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = jax.tree.map(lambda x: x + 0.5, variables)
    function = frozen_outputs(FrozenNetwork(network))
    assert frozen_outputs(FrozenNetwork(Net()), "teacher") is function
    batch = {"image": jax.random.normal(jax.random.key(1), (5, *SHAPE))}
    got = function({"teacher": variables}, batch, jax.random.key(2))
    logits, features = network.apply(variables, batch["image"], train=False)
    np.testing.assert_array_equal(got["logits"], logits)
    np.testing.assert_array_equal(got["features"]["flat"], features["flat"])

    def total(variables, images):
        targets = function({"teacher": variables}, {"image": images}, None)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(targets))

    gradients = jax.grad(total, (0, 1))(variables, batch["image"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))
