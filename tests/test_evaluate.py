import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import evaluate
from jaxkd.core import checkpoint
from jaxkd.core.errors import UserError
from jaxkd.evaluate import Evaluator, evaluate_run
from jaxkd.methods.common import self_supervised
from jaxkd.training import build, components, input_pipeline
from jaxkd.training import workdir as workdirs
from tests.conftest import squares_config, write_squares

STUDENTS, SEEDS = ("zebra", "ant", "mole"), (3, 1)


def evaluated(workdir, config=None, use="last"):
    table = evaluate_run(workdir, config, use)
    return table, json.loads((workdir / "eval.json").read_text())


@pytest.fixture(scope="module")
def last(finished_run):
    return evaluated(finished_run[0])


def test_numbers_are_those_at_the_end_of_training(finished_run, last):
    results, found = finished_run[1], last[1]
    assert list(found["students"]) == list(STUDENTS)
    for name in STUDENTS:
        for metric, values in results["students"][name]["last"].items():
            np.testing.assert_allclose(
                found["students"][name][metric], values, rtol=1e-5
            )
    # The check says something only if members differ.
    tops = [tuple(student["loss"]) for student in found["students"].values()]
    assert len({value for pair in tops for value in pair}) == 6


def test_best_parameters_score_what_the_record_says(finished_run):
    workdir, results = finished_run
    _, found = evaluated(workdir, use="best")
    assert found["use"] == "best"
    for name in STUDENTS:
        best = results["students"][name]["best"]
        np.testing.assert_allclose(found["students"][name]["top1"], best["top1"])


def test_the_table_names_students_and_means(finished_run, last):
    results, lines = finished_run[1], last[0].splitlines()
    assert "50 test examples of squares" in lines[0] and "last" in lines[0]
    for line, name in zip(lines[2:], STUDENTS, strict=True):
        mean = 100 * np.mean(results["students"][name]["last"]["top1"])
        assert line.split()[0] == name and f"{mean:.2f}" in line


def by_hand(workdir, path, name, seed):
    """Top-1 and loss of one member, with NumPy after the network."""
    run = build.build(workdirs.read_config(workdir))
    student = next(s for s in run.students if s.name == name)
    variables = checkpoint.load_member(workdir / "checkpoints", "last", name, seed)
    with np.load(path) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    with np.load(run.config.data.path) as arrays:  # the run's own
        train = arrays["train_images"] / 255
    scaled = (images / 255 - train.mean((0, 1, 2))) / train.std((0, 1, 2))
    logits, _ = student.network.apply(variables, jnp.asarray(scaled, jnp.float32))
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    loss = -log_p[np.arange(len(labels)), labels].mean()
    return (logits.argmax(1) == labels).mean(), loss


@pytest.mark.slow
def test_other_data_of_the_same_kind(finished_run, tmp_path):
    workdir, _ = finished_run
    path = write_squares(tmp_path / "others.npz", train=16, test=33, seed=5)
    table, found = evaluated(workdir, squares_config(path))
    assert found["data"] == "others" and "33 test examples" in table
    for name, seed in (("zebra", 1), ("ant", 3), ("mole", 1)):
        top1, loss = by_hand(workdir, path, name, seed)
        place = SEEDS.index(seed)
        np.testing.assert_allclose(found["students"][name]["top1"][place], top1, 1e-6)
        np.testing.assert_allclose(found["students"][name]["loss"][place], loss, 1e-4)


def test_classes_are_joined_by_name_and_images_normalised_as_trained(
    finished_run, last, tmp_path, squares
):
    """The run's own test images, renumbered, with training images of another mean."""
    with np.load(squares) as file:
        arrays = dict(file)
    order = np.array([2, 0, 3, 1])
    places = np.argsort(order)
    arrays |= {f"{s}_labels": places[arrays[f"{s}_labels"]] for s in ("train", "test")}
    arrays["train_images"] = arrays["train_images"] // 3
    np.savez(tmp_path / "turned.npz", **arrays)
    config = squares_config(tmp_path / "turned.npz")
    names = ("nw", "ne", "sw", "se")
    config.data.class_names = tuple(names[i] for i in order)
    _, found = evaluated(finished_run[0], config)
    for name in STUDENTS:
        for metric, values in last[1]["students"][name].items():
            np.testing.assert_allclose(found["students"][name][metric], values, 1e-5)


def test_a_view_that_normalises_otherwise_does_not_count(finished_run, capsys):
    saved = workdirs.read_config(finished_run[0])
    dataset = components.load_data(saved)
    other = workdirs.read_config(finished_run[0])
    other.view = ConfigDict({"name": "signed"})
    assert evaluate._choose_view(saved, other, dataset).name == "plain"
    assert not capsys.readouterr().err
    other.view = ConfigDict({"name": "glyph"})
    assert evaluate._choose_view(saved, other, dataset).name == "glyph"
    assert "which shows something else" in capsys.readouterr().err


def test_data_of_other_classes_is_refused(finished_run):
    workdir, _ = finished_run
    config = squares_config("unused")
    config.data = ConfigDict({"name": "digits"})
    with pytest.raises(UserError, match=r"10 of 10 classes: 0, 1.*knows nw, ne, sw"):
        evaluate_run(workdir, config, "last")


def copy_of(workdir, tmp_path, **changes):
    """Copies a run and changes its configuration."""
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_a_run_of_more_devices_can_be_evaluated_here(finished_run, tmp_path):
    copy = copy_of(finished_run[0], tmp_path, mesh={"data": 8, "fsdp": 2})
    evaluated(copy)


def test_a_configuration_that_was_changed_by_hand_is_noticed(finished_run, tmp_path):
    students = json.loads((finished_run[0] / "config.json").read_text())["students"]
    swapped = dict(sorted(students.items()))
    copy = copy_of(finished_run[0], tmp_path, students=swapped)
    with pytest.raises(UserError, match=r"zebra.*ant"):
        evaluate_run(copy, None, "last")


@pytest.mark.parametrize("missing", ["config.json", "checkpoints"])
def test_no_run_there(finished_run, tmp_path, missing):
    copy = copy_of(finished_run[0], tmp_path)
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"{missing}|no checkpoint"):
        evaluate_run(copy, None, "last")


def test_damaged_config(finished_run, tmp_path):
    copy = copy_of(finished_run[0], tmp_path)
    (copy / "config.json").write_text('{"name": ')
    with pytest.raises(UserError, match="the configuration of a run: Expecting value"):
        evaluate_run(copy, None, "last")


def test_members_left_out_are_not_evaluated(finished_run):
    workdir, results = finished_run
    run = build.build(workdirs.read_config(workdir))
    groups = checkpoint.load_groups(workdir / "checkpoints", "last", run.groups)
    training = {group.name: np.ones(len(group.members), bool) for group in run.groups}
    out = run.groups[0].members.index(("ant", 3))
    training[run.groups[0].name][out] = False
    params = {name: group["params"] for name, group in groups.items()}
    model_state = {name: group["model_state"] for name, group in groups.items()}
    found = Evaluator(run)(params, model_state, training)[run.groups[0].name]
    assert not found["confusion"][out].any()
    assert not found["top1"][out] > 0
    kept = run.groups[0].members.index(("zebra", 1))
    wanted = results["students"]["zebra"]["last"]["top1"][SEEDS.index(1)]
    np.testing.assert_allclose(found["top1"][kept], wanted, rtol=1e-6)
    assert found["confusion"][kept].sum() == 50


def test_every_test_example_is_seen_once(finished_run):
    run = build.build(workdirs.read_config(finished_run[0]))
    batches = jax.device_get(list(input_pipeline.test_batches(run)))
    assert [len(batch["label"]) for batch in batches] == [20, 20, 20]
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.sum() == 50 and mask[:50].all()
    seen = np.concatenate([batch["image"] for batch in batches])[mask]
    np.testing.assert_array_equal(seen, run.dataset.test.arrays["image"])


def test_batches_of_several_members_are_merged_member_by_member():
    """Scatter matrices broadcast wrongly, or not at all, over a leading axis."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 20, 4)) * np.array([1.0, 0.1, 0.0, 3.0])
    rows += rng.normal(size=(3, 1, 4))

    def measure(rows):
        mask = jnp.ones(len(rows), bool)
        return self_supervised.Unlabelled.single_from_model_output(
            embedding=rows, mask=mask
        )

    for members in (1, 3):
        first, second = (
            jax.vmap(measure)(jnp.asarray(part[:members], jnp.float32))
            for part in (rows[:, :8], rows[:, 8:])
        )
        merged = jax.vmap(lambda one: one.compute())(
            evaluate.merge_members(first, second)
        )
        for place in range(members):
            unit = rows[place] / np.linalg.norm(rows[place], axis=1, keepdims=True)
            values = np.linalg.eigvalsh(np.cov(unit.T, bias=True))
            share = values[values > 1e-12] / values.sum()
            exact = {
                "feature_std": 2 * unit.std(axis=0).mean(),
                "effective_rank": np.exp(-np.sum(share * np.log(share))),
            }
            for name, value in exact.items():
                np.testing.assert_allclose(merged[name][place], value, 1e-4)
