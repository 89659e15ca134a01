"""HORKD as a method, its assistants, its curve, and teachers that are refused."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import losses, methods
from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.frozen import PerSeed, of_seed
from jaxkd.core.targets import evaluate_target
from jaxkd.core.types import FrozenNetwork, Spec
from jaxkd.methods.common import warm_start
from jaxkd.models.resnet import ResNet
from jaxkd.train import train
from jaxkd.training import build, teachers
from tests.conftest import squares_config, write_squares
from tests.fields import loss_of

BATCH, CLASSES = 6, 4
SMALL = ResNet(CLASSES, 1, 2, (2, 3), (1, 2))
LARGE = ResNet(CLASSES, 1, 2, (2, 5), (2, 2))
ZERO = {"first_weight": 0.0, "second_weight": 0.0, "third_weight": 0.0}


def _spec(**frozen):
    fields = {
        "image": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32),
        "low": jax.ShapeDtypeStruct((4, 4, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    return Spec(SMALL, frozen, CLASSES, fields, 10.0, 50, input_key="low")


SPEC = _spec(teacher=FrozenNetwork(LARGE), assistant=FrozenNetwork(LARGE, "low"))


@pytest.fixture(scope="module")
def scene():
    """A batch, the student's variables and outputs, and the targets."""
    keys = jax.random.split(jax.random.key(0), 4)
    batch = {
        "image": jax.random.normal(keys[0], (BATCH, 8, 8, 3)),
        "low": jax.random.normal(keys[1], (BATCH, 4, 4, 3)),
        "label": jnp.arange(BATCH) % CLASSES,
    }
    method = methods.make(
        "horkd", SPEC, {"teacher_weights": {"teacher": 0.5, "assistant": 0.5}}
    )
    params, model_state = jax.jit(method.init)(keys[2])
    frozen = {
        "teacher": jax.jit(LARGE.init)(keys[2], batch["image"]),
        "assistant": jax.jit(LARGE.init)(keys[3], batch["low"]),
    }
    targets = {
        name: jax.jit(f)(frozen, batch, keys[0]) for name, f in method.targets.items()
    }
    outputs, model_state = jax.jit(method.forward)(params, model_state, batch, keys[0])
    return batch, params, model_state, outputs, targets


def _loss(scene, step=0, **options):
    batch, params, model_state, outputs, targets = scene
    method = methods.make("horkd", SPEC, options)
    value, aux = jax.jit(functools.partial(loss_of, method))(
        params, model_state, outputs, batch, targets, jax.random.key(0), jnp.int32(step)
    )
    return float(value), aux.metrics


def test_the_sum_is_that_of_the_docstring(scene):
    _, params, _, outputs, targets = scene
    total, metrics = _loss(
        scene,
        kd_weight=3.0,
        first_weight=20.0,
        second_weight=25.0,
        third_weight=50.0,
        extra_relations={"pkt": 100.0, "cc": 0.02},
        teacher_weights={"teacher": 0.25, "assistant": 0.5},
        temperature=2.0,
    )
    wanted = metrics["ce"]
    rows = outputs["features"]["pooled"]
    moved = rows @ params["maps"]["5"]
    for name, share in (("teacher", 0.25), ("assistant", 0.5)):
        logits, t = targets[name]["logits"], targets[name]["features"]["pooled"]
        wanted += share * (
            3 * losses.kd(outputs["logits"], logits, temperature=2.0).mean()
            + 20 * losses.first_order(moved, t).mean()
            + 25 * losses.second_order(rows, t)
            + 50 * losses.third_order(rows, t)
            + 100 * losses.pkt(rows, t)
            + 0.02 * losses.correlation_congruence(moved, t)
        )
    np.testing.assert_allclose(total, wanted, 1e-4)


def test_weights_fade_and_a_student_without_weights_learns_labels_alone(scene):
    plain, metrics = _loss(scene, **ZERO)
    assert plain == pytest.approx(float(metrics["ce"]))
    assert methods.make("horkd", _spec(), ZERO).targets == {}
    options = {"fade": (1.0, 2.0)}  # of ten steps each
    values = [_loss(scene, step, **options)[0] for step in (0, 10, 15, 20, 30)]
    full = values[0] - plain
    np.testing.assert_allclose(
        np.array(values) - plain, full * np.array([1, 1, 0.5, 0, 0]), atol=1e-5
    )


def test_students_that_differ_in_weights_share_their_functions():
    rows = (
        ZERO,
        {"kd_weight": 1.0},
        {"teacher_weights": {"assistant": 0.5}, "eval_sizes": (2, 4)},
    )
    made = [methods.make("horkd", SPEC, row) for row in rows]
    assert len({method.init for method in made}) == 1
    assert len({method.forward for method in made}) == 1


def test_errors_of_options():
    for options, message in (
        ({"extra_relations": {"crd": 1.0}}, "cc, darkrank, pkt, sp"),
        ({"third_weight": -1.0}, ">= 0"),
        ({"fade": (2.0, 1.0)}, "fade is .*, expected the lower one first"),
        ({"eval_sizes": (4, 16)}, "from 1 to 8"),
    ):
        with pytest.raises(UserError, match=message):
            methods.make("horkd", SPEC, options)
    with pytest.raises(UserError, match=r"needs\.assistant"):
        methods.make(
            "horkd",
            _spec(teacher=FrozenNetwork(LARGE)),
            {"teacher_weights": {"assistant": 1.0}},
        )


def test_starting_from_another_network():
    method = methods.make("horkd", SPEC, {"start_from": "teacher"})
    other = jax.jit(ResNet(CLASSES, 1, 2, (2, 3), (1, 1)).init)(
        jax.random.key(5), jnp.zeros((1, 8, 8, 3))
    )
    first = jax.jit(method.init)(jax.random.key(1))
    params, model_state = method.warm_start(*first, {"teacher": other})
    assert "maps" in params
    for got, wanted in (
        (params["student"], other["params"]),
        (model_state["student"]["batch_stats"], other["batch_stats"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    wide = jax.jit(LARGE.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(UserError, match="only strides"):
        method.warm_start(*first, {"teacher": wide})
    with pytest.raises(UserError, match="start_from is 'aunt'"):
        warm_start.from_needed_run("aunt")(params, model_state, {"teacher": other})


def test_each_seed_is_taught_by_its_own_network(scene):
    batch = scene[0]
    keys = jax.random.split(jax.random.key(0), 2)
    each = [jax.jit(LARGE.init)(key, batch["low"]) for key in keys]
    frozen = {
        "assistant": PerSeed(jax.tree.map(lambda *rows: jnp.stack(rows), *each)),
        "teacher": each[0],
    }
    method = methods.make("horkd", SPEC, {"teacher_weights": {"assistant": 1.0}})
    target = method.targets["assistant"]
    data = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), batch)
    found = jax.jit(evaluate_target, static_argnums=0)(target, frozen, data, keys)
    found = found["logits"]
    for draw in range(2):
        mine = jax.tree.map(lambda x, draw=draw: x[draw], data)
        wanted = jax.jit(target)({"assistant": each[draw]}, mine, keys[draw])["logits"]
        np.testing.assert_allclose(found[draw], wanted, 1e-4, 1e-6)
    assert of_seed(frozen, 1)["teacher"] is each[0]


def _chain(path):
    """A teacher of large images, assistants of two seeds, students of small ones."""
    teacher = squares_config(path)
    teacher.name = "teacher"
    teacher.model.update({"widths": (2, 3, 4), "strides": (2, 2, 1)})
    teacher.duration = 40
    teacher.view = ConfigDict({"name": "low", "base": {"name": "plain"}, "side": 4})
    config = teacher.copy_and_resolve_references()
    config.needs = ConfigDict({"teacher": configs.needed(teacher)})
    config.method = "horkd"
    config.model.input = "low"
    config.model.strides = (2, 1, 1)
    config.seeds, config.batches, config.duration = (1, 2), "per_seed", 9
    config.allow_weak_teacher = True  # Nine steps teach an assistant little.
    assistant = config.copy_and_resolve_references()
    assistant.name = "assistant"
    assistant.loss = ConfigDict({"start_from": "teacher"})
    config.needs.assistant = configs.needed(assistant)
    config.name = "horkd"
    config.students = configs.students(
        {
            "ce": {"method": "horkd", "loss": ZERO | {"eval_sizes": (2, 4)}},
            "all": {
                "method": "horkd",
                "loss": {
                    "kd_weight": 1.0,
                    "teacher_weights": {"teacher": 0.5, "assistant": 0.5},
                    "eval_sizes": (2, 4),
                },
            },
        }
    )
    return config


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    config = _chain(write_squares(folder / "squares.npz"))
    return config, folder, train(config, folder / "run")


@pytest.mark.slow
def test_one_command_trains_teacher_assistants_and_students(chain):
    _, folder, results = chain
    assert results["frozen"]["assistant"]["path"] == "assistant"
    assert not (folder / "run" / "assistant" / "teacher").exists()
    # Two assistants, of the two seeds, that differ.
    one, two = (
        checkpoint.load_member(
            folder / "run" / "assistant" / "checkpoints", "last", seed=seed
        )
        for seed in (1, 2)
    )
    assert np.abs(one["params"]["fc"]["kernel"] - two["params"]["fc"]["kernel"]).max()
    told = json.loads((folder / "run" / "assistant" / "results.json").read_text())
    each = told["students"]["horkd"]["last"]["top1"]
    assert results["frozen"]["assistant"]["by_seed"]["top1"] == each
    assert results["frozen"]["assistant"]["top1"] == pytest.approx(sum(each) / 2)
    students = results["students"]
    assert set(students["all"]["train"]) > {"kd", "first", "second", "third", "ce"}
    assert "kd" not in students["ce"]["train"]


@pytest.mark.slow
def test_accuracy_by_resolution_is_measured_and_drawn(chain):
    _, folder, results = chain
    for student in ("ce", "all"):
        last = results["students"][student]["last"]
        # At the student's own side nothing changes.
        np.testing.assert_allclose(last["top1_at_4"], last["top1"], atol=1e-6)
        assert len(last["top1_at_2"]) == 2
    assert (folder / "run" / "figures" / "resolution.png").stat().st_size > 5000
    assert "Accuracy by resolution" in (folder / "run" / "report.html").read_text()


def test_a_teacher_worse_than_its_assistant_is_refused(squares):
    config = _chain(squares)
    config.allow_weak_teacher = False
    run = build.build(config)
    weak, strong = ({"top1": [share], "loss": [1.0]} for share in (0.5, 0.9))
    teachers.check(run, {"teacher": weak, "assistant": weak})
    teachers.check(run, {"teacher": strong, "assistant": weak})
    with pytest.raises(UserError, match=r"50\.0 %, worse than the 90\.0 % of 'assist"):
        teachers.check(run, {"teacher": weak, "assistant": strong})


TIED = ResNet(CLASSES, 1, 3, (2, 3), (1, 2))
JOINT_SPEC = SPEC._replace(network=TIED)
JOINT = {"strides": (2, 2), "first_weight": 20.0, "second_weight": 25.0}
JOINT |= {"third_weight": 50.0, "kd_weight": 3.0}


def _joint(scene, options):
    """Variables of a student that is its own assistant, and its loss as a function."""
    batch, _, _, _, targets = scene
    method = methods.make("horkd_joint", JOINT_SPEC, JOINT | options)
    params, model_state = jax.jit(method.init)(jax.random.key(2))

    def run(params):
        outputs, after = method.forward(params, model_state, batch, jax.random.key(0))
        value, aux = loss_of(
            method,
            params,
            after,
            outputs,
            batch,
            targets,
            jax.random.key(0),
            jnp.int32(0),
        )
        return value, aux.model_state

    return params, model_state["student"], run


@jax.jit
def _at_both_sides(student, statistics, batch):
    """The student's and the assistant's outputs, by the networks themselves."""
    large = ResNet(CLASSES, 1, 3, (2, 3), (2, 2))
    variables = {"params": student, **statistics}
    return [
        network.apply(variables, batch[input_key], train=True, mutable=["batch_stats"])
        for network, input_key in ((TIED, "low"), (large, "image"))
    ]


@pytest.mark.slow
def test_a_joint_assistant_is_the_student_at_the_large_images(scene):
    batch, targets = scene[0], scene[4]
    teacher_weights = {"teacher": 0.25, "assistant": 0.75}
    options = {
        "teacher_weights": teacher_weights,
        "assistant_weight": 2.0,
        "assistant_ce_weight": 0.5,
    }
    params, start, run = _joint(scene, options)
    value, after = jax.jit(run)(params)
    (small, small_after), (large, large_after) = _at_both_sides(
        params["student"], start, batch
    )
    # One network, two sets of batch statistics.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, after["student"], small_after)
    jax.tree.map(close, after["assistant"], large_after)

    def cross_entropy(logits):
        chosen = jax.nn.log_softmax(logits)[jnp.arange(BATCH), batch["label"]]
        return -chosen.mean()

    def distance(one, other):
        rows, wanted = one[1]["pooled"], other[1]["pooled"]
        same = rows.shape == wanted.shape
        moved = rows if same else rows @ params["maps"]["5"]
        return (
            3 * losses.kd(one[0], other[0], temperature=4.0).mean()
            + 20 * losses.first_order(moved, wanted).mean()
            + 25 * losses.second_order(rows, wanted)
            + 50 * losses.third_order(rows, wanted)
        )

    teacher = targets["teacher"]["logits"], targets["teacher"]["features"]
    wanted = (
        cross_entropy(small[0])
        + 0.5 * cross_entropy(large[0])
        + 0.25 * distance(small, teacher)
        + 0.75 * distance(small, large)
        + 2.0 * distance(large, teacher)
    )
    np.testing.assert_allclose(value, wanted, 1e-4)


@pytest.mark.slow
def test_gradients_enter_a_joint_assistant_by_its_own_terms_alone(scene):
    nothing = {f"{n}_weight": 0.0 for n in ("kd", "first", "second", "third")}
    alone = {**nothing, "ce_weight": 0.0}
    params, start, run = _joint(scene, alone)
    slope = jax.jit(jax.grad(run, has_aux=True))(params)[0]

    def assistant_ce(student):
        logits = _at_both_sides(student, start, scene[0])[1][0][0]
        chosen = jax.nn.log_softmax(logits)[jnp.arange(BATCH), scene[0]["label"]]
        return -chosen.mean()

    wanted = jax.grad(assistant_ce)(params["student"])
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted)) > 1e-3
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, 1e-4, 1e-6),
        slope["student"],
        wanted,
    )
    # What the student learns from it is a fixed target.
    toward = {
        **alone,
        "second_weight": 1.0,
        "assistant_ce_weight": 0.0,
        "assistant_weight": 0.0,
    }
    teacher_weights = {"teacher": 0.0, "assistant": 1.0}
    run = _joint(scene, {**toward, "teacher_weights": teacher_weights})[2]
    slope = jax.jit(jax.grad(run, has_aux=True))(params)[0]
    fixed = jax.lax.stop_gradient(
        _at_both_sides(params["student"], start, scene[0])[1][0][1]["pooled"]
    )

    def relations(student):
        rows = _at_both_sides(student, start, scene[0])[0][0][1]["pooled"]
        return losses.second_order(rows, fixed)

    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, 1e-4, 1e-6),
        slope["student"],
        jax.grad(relations)(params["student"]),
    )


def test_errors_of_a_joint_assistant():
    with pytest.raises(UserError, match="expected as many"):
        methods.make("horkd_joint", JOINT_SPEC, {"strides": (2, 2, 2)})
    with pytest.raises(UserError, match="other variables"):  # no shortcut at stride 1
        methods.make("horkd_joint", SPEC, {"strides": (2, 2)})
    with pytest.raises(UserError, match=r"needs\.teacher"):
        methods.make("horkd_joint", _spec(), {"strides": (2, 2)})
    with pytest.raises(UserError, match=">= 0"):
        methods.make("horkd_joint", JOINT_SPEC, JOINT | {"assistant_weight": -1.0})
