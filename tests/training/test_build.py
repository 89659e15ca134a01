import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.models.resnet import ResNet
from jaxkd.report.style import StudentOrder
from jaxkd.train import train
from jaxkd.training import build, components
from jaxkd.training.evaluation import student_order
from tests.conftest import squares_config


def test_steps_and_students(squares_run):
    squares_run.batch_size = 24
    squares_run.unit, squares_run.duration = "epochs", 3.0
    squares_run.seeds = (5, 2)
    squares_run.students = configs.students(
        {
            "zebra": {"duration": 10.0},
            "ant": {"optim": {"weight_decay": 0.25}},
            "mole": {"duration": 1e-6},
        }
    )
    run = build.build(squares_run)
    per_epoch = 64 / 24
    assert run.steps_per_unit == pytest.approx(per_epoch)
    assert {s.name: s.steps for s in run.students} == {
        "zebra": round(10 * per_epoch),
        "ant": round(3 * per_epoch),
        "mole": 1,
    }
    assert run.steps == round(10 * per_epoch)
    assert [s.name for s in run.students] == ["zebra", "ant", "mole"]
    assert [s.optimizers["main"].weight_decay for s in run.students] == [
        5e-4,
        0.25,
        5e-4,
    ]
    assert run.in_steps(1.5) == 4 and run.in_steps(1e-9) == 1
    assert run.draw_seeds == (5,) and len(run.draws) == 1
    # Each student's cosine ends with the student, not with the study.
    zebra, ant, _ = run.students
    assert float(ant.optimizers["main"].schedule(8)) == pytest.approx(0, abs=1e-9)
    assert float(zebra.optimizers["main"].schedule(13)) > 0.04


def test_each_seed_draws_its_own_batches_when_asked(squares_run):
    squares_run.seeds, squares_run.batches = (5, 2), "per_seed"
    run = build.build(squares_run)
    assert run.draw_seeds == (5, 2) and len(run.draws) == 2
    (group,) = run.groups
    np.testing.assert_array_equal(group.draw_index, [0, 1])


def test_the_students_have_their_parts_in_figures(squares_run):
    rows = {"b": {}, "a": {}, "c": {}}
    squares_run.students, squares_run.reference = configs.students(rows), "a"
    assert student_order(build.build(squares_run)) == StudentOrder(
        ["b", "a", "c"], "a", "b"
    )


def test_without_students_the_run_trains_its_own_method(squares_run):
    run = build.build(squares_run)
    assert student_order(run) == StudentOrder(["supervised"], None, None)
    assert [student.name for student in run.students] == ["supervised"]
    assert run.steps == 9 and run.steps_per_unit == 1


def test_students_override_and_start_clean(squares_run):
    squares_run.method, squares_run.loss = "supervised", {"label_smoothing": 0.1}
    squares_run.students = configs.students(
        {
            "same": {"optim": {"lr": 0.7}},
            "other": {"method": "rld", "loss": {"beta": 2.0}},
            "tuned": {"loss": {"label_smoothing": 0.2}},
            "deep": {"model": {"name": "resnet20"}},
        }
    )
    own = {n: components.student_config(squares_run, n) for n in squares_run.students}
    assert own["same"].loss.label_smoothing == 0.1 and own["same"].optim.lr == 0.7
    assert own["same"].optim.momentum == 0.9
    assert dict(own["other"].loss) == {"beta": 2.0}  # not the other method's options
    assert own["tuned"].loss.label_smoothing == 0.2
    assert dict(own["deep"].model) == {"name": "resnet20"}  # nor the other network's
    assert own["same"].model.stem == 3
    assert squares_run.optim.lr == 0.1  # and the run's own are untouched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 65}, "batch_size is 65, but there are only 64"),
        ({"model": {"name": "resnet21"}}, "Unknown model 'resnet21'.*resnet20"),
        ({"model": {"name": "resnet8", "depth": 3}}, "no option depth.*stem"),
        ({"model": {}}, "Unknown model ''"),
        ({"model": {"name": "resnet8", "dtype": "float16"}}, "dtype"),
        ({"view": {"name": "mirror"}}, "view is 'mirror', expected one of plain"),
        ({"view": {"name": "plain", "pad": 3}}, "'plain' has no option 'pad'"),
        ({"data": {"name": "cifra"}}, "no 'cifra'.*did you mean 'cifar'"),
        ({"data": {"name": "npz"}}, "'npz' needs path"),
        ({"data": {"name": "npz", "path": "/no/such.npz"}}, "such.npz does not exist"),
        ({"method": "kdd"}, "no 'kdd', expected one of"),
        ({"loss": {"temperature": 2.0}}, "'supervised' has no option 'temperature'"),
        ({"method": "kd"}, "'kd' learns from another run, 'teacher'"),
        ({"mesh": {"data": 3, "fsdp": 1}}, "there are 1 devices"),
    ],
)
def test_what_is_wrong_is_said_before_anything_compiles(squares_run, change, message):
    for key, value in change.items():
        squares_run[key] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message):
        build.build(squares_run)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim": {"name": "lion"}}, "'lion'"),
        ({"optim": {"schedule": "poly"}}, "'poly'"),
        ({"method": "rld", "loss": {"gamma": 1.0}}, "no option 'gamma'|teacher"),
    ],
)
def test_a_wrong_student_is_found(squares_run, overrides, message):
    squares_run.students = configs.students({"fine": {}, "wrong": overrides})
    with pytest.raises(UserError, match=message):
        build.build(squares_run)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method": "rld", "loss": {"mask": "le"}}, "mask is 'le'"),
        ({"method": "kd", "loss": {"temperature": "hot"}}, "wrong"),
        ({"model": {"name": "resnet8", "stem": "two"}}, "wrong"),
        ({"model": {"name": "resnet8", "strides": (1, 2)}}, "wrong"),
    ],
)
def test_values_that_cannot_work_name_the_student(
    squares_run, tmp_path, overrides, message
):
    squares_run.needs = ConfigDict({"teacher": configs.needed(squares_run)})
    squares_run.students = configs.students({"fine": {}, "wrong": overrides})
    with pytest.raises(UserError, match=message):
        train(squares_run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_draws_of_different_sizes(squares_run, monkeypatch):
    load = components.load_data

    def uneven(config):
        dataset = load(config)
        whole = dataset.train(0).arrays

        def train(seed):
            return ArraySource({n: array[: 30 + seed] for n, array in whole.items()})

        return dataset._replace(train=train)

    monkeypatch.setattr(build, "load_data", uneven)
    squares_run.seeds, squares_run.batches = (1, 9), "per_seed"
    with pytest.raises(UserError, match=r"differ in size.*1: 31.*9: 39"):
        build.build(squares_run)
    squares_run.batches = "shared"
    assert len(build.build(squares_run).draws[0]) == 31


def with_teacher(config, init_from):
    need = configs.needed(config, init_from=init_from)
    config.needs = ConfigDict({"teacher": need})
    config.students = configs.students({"kd": {"method": "kd"}})
    return config


def test_a_teacher_from_elsewhere_is_built_as_it_was_trained(squares_run, tmp_path):
    there = squares_config("elsewhere.npz")
    there.model.update({"widths": (3, 5, 7), "strides": (1, 2, 2)})
    (tmp_path / "config.json").write_text(json.dumps(configs.resolved(there)))
    run = build.build(with_teacher(squares_run, str(tmp_path)))
    assert run.frozen["teacher"].network.widths == (3, 5, 7)
    assert run.students[0].network.widths == (4,)


@pytest.mark.parametrize("content", [None, "{", '{"no_such_key": 1}'])
def test_a_teacher_that_cannot_be_read(squares_run, tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        build.build(with_teacher(squares_run, str(tmp_path)))


def test_a_teacher_that_is_missing(squares_run):
    with pytest.raises(UserError, match="no/such/run"):
        build.build(with_teacher(squares_run, "no/such/run"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_networks_compute_in_the_dtype_asked_for(squares_run, dtype):
    squares_run.dtype = dtype
    network = build.build(squares_run).students[0].network
    assert jnp.dtype(network.dtype) == dtype
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    logits, features = jax.eval_shape(network.apply, variables, image)
    assert logits.dtype == jnp.float32 and features["stage1"].dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def count_parameters(stem, widths, channels, classes):
    """One block of two convolutions a stage, and a shortcut where the width changes."""
    total, before = 9 * channels * stem + 2 * stem, stem
    for stage, width in enumerate(widths):
        total += 9 * before * width + 9 * width * width + 4 * width
        if before != width or stage > 0:
            total += before * width + 2 * width
        before = width
    return total + before * classes + classes


def taps(size, stride):
    """Products of a padded 3x3 convolution along one axis, the padding left out."""
    return sum(
        0 <= stride * out + shift < size
        for out in range(-(-size // stride))
        for shift in (-1, 0, 1)
    )


def count_flops(stem, widths, strides, size, channels, classes):
    total, before = 2 * taps(size, 1) ** 2 * channels * stem, stem
    for width, stride in zip(widths, strides, strict=True):
        total += 2 * taps(size, stride) ** 2 * before * width
        size = -(-size // stride)
        total += 2 * taps(size, 1) ** 2 * width * width
        if before != width or stride > 1:
            total += 2 * size**2 * before * width
        before = width
    return total + 2 * before * classes


@pytest.mark.parametrize(
    ("stem", "widths", "channels"), [(8, (16, 24, 32), 3), (16, (16, 16, 32), 1)]
)
def test_networks_are_counted_as_by_hand(stem, widths, channels):
    strides = (1, 2, 2)
    network = ResNet(num_classes=7, blocks=1, stem=stem, widths=widths, strides=strides)
    found = components.describe_network(network, (16, 16, channels))
    assert found["parameters"] == count_parameters(stem, widths, channels, 7)
    wanted = count_flops(stem, widths, strides, 16, channels, 7)
    assert wanted <= found["flops_per_image"] <= 1.1 * wanted


def test_published_parameter_counts():
    # Counted by hand for 100 classes from the tables of arXiv:1910.10699.
    for name, millions in (("resnet20", 0.28), ("resnet8x4", 1.23), ("resnet56", 0.86)):
        config = configs.default()
        config.model = ConfigDict({"name": name})
        network = components.build_network(config, 100)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        variables = jax.eval_shape(network.init, jax.random.key(0), image)
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        assert round(count / 1e6, 2) == millions


def test_lists_of_a_configuration_become_hashable():
    config = configs.default()
    config.model = ConfigDict({"name": "resnet8", "widths": [2, 2, 2]})
    network = components.build_network(config, 3)
    assert isinstance(network, nn.Module) and network.widths == (2, 2, 2)
    assert hash(network) == hash(components.build_network(config, 3))
