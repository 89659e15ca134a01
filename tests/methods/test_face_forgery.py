"""Detectors of forged faces: heads, the bi-level step, what is held out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses, models
from jaxkd.core.errors import UserError
from jaxkd.core.types import LossInputs, Spec, UpdateInputs
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.methods import face_forgery
from jaxkd.models.layers import BatchNorm
from jaxkd.training import build
from tests.fields import fields
from tests.test_configs import MODULES

GRAPH = LabelGraph.ffpp()
NODES = len(GRAPH.nodes)


class Small(nn.Module):
    """A batch-normalised pixel-by-pixel network."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        x = BatchNorm(train, name="bn")(nn.Dense(6, name="first")(x))
        return nn.Dense(NODES, name="fc")(jnp.tanh(x)), {}


def spec(classes=NODES, **more):
    known = {
        "code": jax.ShapeDtypeStruct((NODES,), jnp.int8),
        "manipulation": jax.ShapeDtypeStruct((), jnp.int32),
    }
    shapes = fields((2, 2, 3), **(known | more))
    return Spec(Small(), {}, classes, shapes, 10.0)


def batch(count=8, seed=0):
    rng = np.random.default_rng(seed)
    codes = GRAPH.states[rng.integers(0, len(GRAPH.states), count)].astype(np.int8)
    codes[:3] = 0
    images = rng.normal(size=(count, 2, 2, 3))
    fake = codes[:, 0].astype(np.int32)
    return {
        "image": jnp.asarray(images),
        "label": jnp.asarray(fake),
        "code": jnp.asarray(codes),
        "manipulation": jnp.asarray(fake * rng.integers(1, 4, count)),
    }


def make(**options):
    return face_forgery.make(spec(), graph="ffpp", **options)


@functools.cache
def value(**options):
    """The loss of a batch, as a jitted function of its parts."""
    method = make(**options)

    @jax.jit
    def run(params, state, batch):
        outputs, state = method.forward(params, state, batch, jax.random.key(0))
        inputs = LossInputs(
            *(params, state, outputs, batch, {}, jax.random.key(0), jnp.zeros(()))
        )
        return method.loss(inputs), outputs["logits"]

    return run


@pytest.mark.parametrize("head", face_forgery.HEADS)
def test_heads_in_closed_form(head):
    method = make(head=head, root_bias=False)
    params, state = method.init(jax.random.key(0))
    loss, logits = value(head=head, root_bias=False)(params, state, batch())
    z, data = np.asarray(logits, np.float64), batch()
    fake = np.asarray(data["label"])
    if head == "binary":
        wanted = np.mean(np.logaddexp(0, z[:, 0]) - fake * z[:, 0])
    elif head == "multiclass":
        norm = np.log(np.exp(z).sum(axis=1))
        wanted = np.mean(norm - z[np.arange(8), np.asarray(data["manipulation"])])
    elif head == "multilabel":
        terms = np.logaddexp(0, z) - np.asarray(data["code"]) * z
        node = terms.mean(axis=0)
        wanted = node[0] + node[1:4].mean() + node[4:].mean()
    else:
        wanted = float(losses.level_losses(logits, data["code"], GRAPH).sum())
    np.testing.assert_allclose(loss.value, wanted, 1e-5)
    found = face_forgery.read_out(logits, head, GRAPH)
    if head == "multiclass":
        odds = np.log(np.exp(z[:, 1:]).sum(axis=1)) - z[:, 0]
        np.testing.assert_allclose(found.fake_logit, odds, 1e-4, 1e-5)
    assert (found.log_p is None) == (head in ("binary", "multiclass"))
    right = (np.asarray(found.fake_logit) >= 0) == (fake > 0)
    assert float(loss.metrics["accuracy"]) == pytest.approx(right.mean())


def test_joint_embedding_with_fidelity_against_numpy():
    """SJEDD's form, from images' and labels' embeddings to the loss of each level."""
    network = models.build("joint_resnet8", NODES, stem=2, widths=(2, 2, 4), width=3)
    own = spec()._replace(network=network)
    method = face_forgery.make(own, graph="ffpp", kind="fidelity")
    params, state = method.init(jax.random.key(0))
    assert float(params["student"]["fc"]["bias"][0]) == pytest.approx(GRAPH.root_bias)
    data, key = batch(), jax.random.key(1)
    outputs, state = jax.jit(method.forward)(params, state, data, key)
    loss = method.loss(LossInputs(params, state, outputs, data, {}, key, jnp.zeros(())))
    scores = np.asarray(outputs["logits"], np.float64) @ GRAPH.states.T
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    p = weights @ GRAPH.states / weights.sum(axis=1, keepdims=True)
    y = np.asarray(data["code"], np.float64)
    node = 1 - np.sqrt(p * y + 1e-8) - np.sqrt((1 - p) * (1 - y) + 1e-8)
    levels = [node[:, list(level)].mean() for level in GRAPH.levels]
    found = [float(loss.metrics[f"level{i}"]) for i in (1, 2, 3)]
    np.testing.assert_allclose(found, levels, 2e-4, 1e-6)
    np.testing.assert_allclose(loss.value, sum(levels), 1e-4)


def test_students_of_the_study_are_of_one_size():
    config = MODULES["face_forgery"].get_config("")
    sizes = {}
    for name in ("graph", "joint"):
        network = build.build_network(build.student_config(config, name), 12)
        shapes = jax.eval_shape(
            network.init, jax.random.key(0), np.zeros((1, 32, 32, 3))
        )
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert sizes == {"graph": 20_020, "joint": 21_077}


def test_an_untrained_graph_is_undecided():
    method = make()
    params, _ = method.init(jax.random.key(0))
    plain, _ = make(root_bias=False).init(jax.random.key(0))
    moved = params["student"]["fc"]["bias"] - plain["student"]["fc"]["bias"]
    np.testing.assert_allclose(moved[0], GRAPH.root_bias, 1e-6)
    assert not moved[1:].any()
    zero = jnp.zeros((1, NODES)).at[0, 0].set(GRAPH.root_bias)
    odds = face_forgery.read_out(zero, "graph", GRAPH).fake_logit
    np.testing.assert_allclose(jax.nn.sigmoid(odds), 0.5, 1e-5)


def test_what_is_held_out_does_not_train():
    data, run = batch(), value(hold_out="identity")
    params, state = make().init(jax.random.key(0))
    held = np.asarray(data["code"][:, 2]) == 1
    assert 0 < held.sum() < len(held)
    other = {**data, "code": jnp.where(held[:, None], 1, data["code"])}
    first, second = (run(params, state, each)[0].value for each in (data, other))
    np.testing.assert_allclose(first, second, 1e-6)
    # And the others count as if they were the whole batch.
    logits = run(params, state, data)[1]
    wanted = losses.level_losses(logits[~held], data["code"][~held], GRAPH).sum()
    np.testing.assert_allclose(first, wanted, 1e-5)


def test_uncertainty_weighting_trains_its_variances():
    params, state = make(weighting="uncertainty").init(jax.random.key(0))
    run = value(weighting="uncertainty")
    slope = jax.grad(lambda p: run(p, state, batch())[0].value)(params)
    levels = run(params, state, batch())[0].metrics
    wanted = [0.5 - float(levels[f"level{i}"]) for i in (1, 2, 3)]
    np.testing.assert_allclose(slope["log_variances"], wanted, 1e-4, 1e-5)


@pytest.mark.slow
def test_auto_lambda_moves_weights_first_and_keeps_statistics_clean():
    """Against autodiff through the virtual step, written out, in float64."""
    with jax.enable_x64(True):
        method, data, rate = make(weighting="auto", official=True), batch(), 0.3
        params, state = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64), method.init(jax.random.key(1))
        )

        def gradients(function, params, model_state, *, label=None, salt=0):
            def loss(params):
                inputs = LossInputs(
                    params, model_state, None, data, {}, jax.random.key(salt), 0
                )
                result = function(params, inputs)
                return result.value, result

            return jax.grad(loss, has_aux=True)(params)

        def apply(params, slopes, opt_state, *, label="main"):
            own = {
                n: p
                for n, p in params.items()
                if (n == "task_weights") != (label == "main")
            }
            step = rate if label == "main" else 1.0
            moved = jax.tree.map(
                lambda p, g: p - step * g, own, {n: slopes[n] for n in own}
            )
            return {**params, **moved}, opt_state

        result = jax.jit(
            lambda params, state: method.update(
                UpdateInputs(params, state, (), gradients, apply, {"main": rate}, 0)
            )
        )(params, state)

        def levels(student, half):
            rows = {name: x[half] for name, x in data.items()}
            outputs, _ = method.forward(
                {"student": student}, state, rows, jax.random.key(1)
            )
            return losses.level_losses(outputs["logits"], rows["code"], GRAPH)

        def after_virtual_step(weights):
            def total(student):
                return weights @ levels(student, slice(4))

            slope = jax.grad(total)(params["student"])
            virtual = jax.tree.map(lambda p, g: p - rate * g, params["student"], slope)
            return levels(virtual, slice(4, 8))[0]

        wanted = 1.0 - jax.jit(jax.grad(after_virtual_step))(jnp.ones(3))
        # Batch norm hands on float32, so this is as exact as float32 allows.
        np.testing.assert_allclose(result.params["task_weights"], wanted, 2e-6)
        # The step itself: the whole batch, with the new weights.
        outputs, new_state = method.forward(params, state, data, jax.random.key(0))
        np.testing.assert_allclose(
            result.loss,
            wanted @ losses.level_losses(outputs["logits"], data["code"], GRAPH),
            1e-6,
        )
        for name in ("mean", "var"):
            np.testing.assert_allclose(
                result.model_state["student"]["batch_stats"]["bn"][name],
                new_state["student"]["batch_stats"]["bn"][name],
                1e-6,
            )
        assert set(result.metrics) >= {"weight1", "weight2", "weight3", "primary"}


def test_evaluation_counts_accuracy_and_ignores_padding():
    outputs = {"fake_logit": jnp.array([2.0, -1.0, 3.0, 5.0])}
    rows = {
        "label": jnp.array([1, 1, 0, 0]),
        "mask": jnp.array([True, True, True, False]),
    }
    found = face_forgery.evaluate(outputs, rows).compute()
    assert float(found["accuracy"]) == pytest.approx(1 / 3)
    odds, fake = np.array([2.0, -1.0, 3.0]), np.array([1.0, 1.0, 0.0])
    wanted = np.mean(np.logaddexp(0, odds) - fake * odds)
    assert float(found["loss"]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "both"}, "config.loss.head is 'both'"),
        ({"graph": "none"}, "config.loss.graph is 'none'"),
        ({"weighting": "equal"}, "config.loss.weighting is 'equal'"),
        ({"level_weights": (1.0,)}, "expected 3 numbers"),
        ({"hold_out": "beard"}, "config.loss.hold_out is 'beard'"),
        ({"head": "binary", "weighting": "auto"}, "has one loss only"),
        ({"graph": "ffsc"}, "has 10 labels, expected 12"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        face_forgery.make(spec(), **({"graph": "ffpp"} | options))


def test_batches_need_their_fields():
    without = Spec(Small(), {}, NODES, fields((2, 2, 3)), 10.0)
    with pytest.raises(UserError, match="expected also code"):
        face_forgery.make(without, graph="ffpp")
