"""HORKD as a method, its assistants, its curve, and teachers that are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import squares_config, write_squares
from ml_collections import ConfigDict

from jaxkd import losses, methods
from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.frozen import PerSeed, of_seed
from jaxkd.core.step import evaluate_target
from jaxkd.core.types import FrozenNetwork, Spec
from jaxkd.methods import streams
from jaxkd.models.resnet import ResNet
from jaxkd.train import train

BATCH, CLASSES = 6, 4
SMALL = ResNet(CLASSES, 1, 2, (2, 3), (1, 2))
LARGE = ResNet(CLASSES, 1, 2, (2, 5), (2, 2))
ZERO = {"first": 0.0, "second": 0.0, "third": 0.0}


def _spec(**frozen):
    fields = {
        "image": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32),
        "low": jax.ShapeDtypeStruct((4, 4, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    return Spec(SMALL, frozen, CLASSES, fields, 10.0, 50, reads="low")


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
    method = methods.make("horkd", SPEC, {"shares": {"teacher": 0.5, "assistant": 0.5}})
    params, extra = jax.jit(method.init)(keys[2])
    frozen = {
        "teacher": jax.jit(LARGE.init)(keys[2], batch["image"]),
        "assistant": jax.jit(LARGE.init)(keys[3], batch["low"]),
    }
    targets = {
        name: jax.jit(f)(frozen, batch, keys[0]) for name, f in method.targets.items()
    }
    outputs, extra = jax.jit(method.forward)(params, extra, batch, keys[0])
    return batch, params, extra, outputs, targets


def _loss(scene, step=0, **options):
    batch, params, extra, outputs, targets = scene
    method = methods.make("horkd", SPEC, options)
    value, aux = jax.jit(method.loss)(
        params, extra, outputs, batch, targets, jax.random.key(0), jnp.int32(step)
    )
    assert set(method.metrics) <= set(aux.metrics)
    return float(value), aux.metrics


def test_the_sum_is_that_of_the_docstring(scene):
    _, params, _, outputs, targets = scene
    total, metrics = _loss(
        scene,
        kd=3.0,
        first=20.0,
        second=25.0,
        third=50.0,
        further={"pkt": 100.0, "cc": 0.02},
        shares={"teacher": 0.25, "assistant": 0.5},
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
    rows = (ZERO, {"kd": 1.0}, {"shares": {"assistant": 0.5}, "curve": (2, 4)})
    made = [methods.make("horkd", SPEC, row) for row in rows]
    assert len({method.init for method in made}) == 1
    assert len({method.forward for method in made}) == 1


def test_errors_of_options():
    for options, message in (
        ({"further": {"crd": 1.0}}, "cc, darkrank, pkt, sp"),
        ({"third": -1.0}, ">= 0"),
        ({"fade": (2.0, 1.0)}, "begins to fall"),
        ({"curve": (4, 16)}, "from 1 to 8"),
    ):
        with pytest.raises(UserError, match=message):
            methods.make("horkd", SPEC, options)
    with pytest.raises(UserError, match=r"needs\.assistant"):
        methods.make(
            "horkd", _spec(teacher=FrozenNetwork(LARGE)), {"shares": {"assistant": 1.0}}
        )


def test_starting_from_another_network():
    method = methods.make("horkd", SPEC, {"start_from": "teacher"})
    other = jax.jit(ResNet(CLASSES, 1, 2, (2, 3), (1, 1)).init)(
        jax.random.key(5), jnp.zeros((1, 8, 8, 3))
    )
    first = jax.jit(method.init)(jax.random.key(1))
    params, extra = method.adopt(*first, {"teacher": other})
    assert "maps" in params
    for got, wanted in (
        (params["student"], other["params"]),
        (extra["student"]["batch_stats"], other["batch_stats"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    wide = jax.jit(LARGE.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(UserError, match="only strides"):
        method.adopt(*first, {"teacher": wide})
    with pytest.raises(UserError, match="start_from is 'aunt'"):
        streams.adopt("aunt")(params, extra, {"teacher": other})


def test_each_seed_is_taught_by_its_own_network(scene):
    batch = scene[0]
    keys = jax.random.split(jax.random.key(0), 2)
    each = [jax.jit(LARGE.init)(key, batch["low"]) for key in keys]
    frozen = {
        "assistant": PerSeed(jax.tree.map(lambda *rows: jnp.stack(rows), *each)),
        "teacher": each[0],
    }
    method = methods.make("horkd", SPEC, {"shares": {"assistant": 1.0}})
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
    config.model.view = "low"
    config.model.strides = (2, 1, 1)
    config.seeds, config.batches, config.duration = (1, 2), "per_seed", 9
    assistant = config.copy_and_resolve_references()
    assistant.name = "assistant"
    assistant.loss = ConfigDict({"start_from": "teacher"})
    config.needs.assistant = configs.needed(assistant)
    config.name = "horkd"
    config.students = configs.rows(
        {
            "ce": {"method": "horkd", "loss": ZERO | {"curve": (2, 4)}},
            "all": {
                "method": "horkd",
                "loss": {
                    "kd": 1.0,
                    "shares": {"teacher": 0.5, "assistant": 0.5},
                    "curve": (2, 4),
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


@pytest.mark.slow
def test_a_teacher_worse_than_its_student_is_refused(chain, tmp_path):
    config, folder, _ = chain
    config = config.copy_and_resolve_references()
    config.needs = ConfigDict(
        {
            name: configs.needed(
                configs.alone(config.needs[name]), str(folder / "run" / name)
            )
            for name in ("teacher", "assistant")
        }
    )
    path = folder / "run" / "teacher" / "results.json"
    told = json.loads(path.read_text())
    good = json.loads(json.dumps(told))
    next(iter(told["students"].values()))["last"]["top1"] = [0.01]
    for name, worse in (("assistant", told),):
        path.write_text(json.dumps(worse))
        with pytest.raises(UserError, match=f"worse than .* of '{name}'"):
            train(config, tmp_path / name)
    path.write_text(json.dumps(good))
