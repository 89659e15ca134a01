"""Runs that grow equal those that were so from the start, and say where they do not."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import checkpoint, records
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.writers import read_metrics
from jaxkd.train import train
from jaxkd.training import growth
from jaxkd.training.build import build
from tests.test_train import data_file, make_config  # noqa: F401


def alone(data_file, steps, schedule="constant"):  # noqa: F811
    """One network without a teacher."""
    config = configs.standalone(make_config(data_file, steps).needs.teacher)
    config.optim.schedule = schedule
    return config


def parameters(workdir, *member):
    loaded = checkpoint.load_member(workdir / "checkpoints", "last", *member)
    flat, _ = jax.tree_util.tree_flatten_with_path(loaded)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.slow
def test_a_longer_run_equals_one_that_was_long_from_the_start(data_file, tmp_path):  # noqa: F811
    long, grown, moved = (tmp_path / name for name in ("long", "grown", "moved"))
    train(alone(data_file, 12), long)
    train(alone(data_file, 8), grown)
    shutil.copytree(grown, moved)
    results = train(alone(data_file, 12), grown)
    assert results["steps"] == 12
    assert results["extended"] == [{"step": 8, "differs": []}]
    assert_equal(parameters(grown), parameters(long))
    assert [
        r["step"] for r in read_metrics(grown) if "test_top1/supervised/0" in r
    ] == [*(4, 8, 12)]
    assert train(alone(data_file, 12), grown) == results  # and is finished
    with pytest.raises(UserError, match=r"duration: 12.0 -> 8.0"):
        train(alone(data_file, 8), grown)

    # Of the same content elsewhere, it is the same run; of another, it is not.
    elsewhere = tmp_path / "elsewhere.npz"
    shutil.copy(data_file, elsewhere)
    before = records.read_results(moved)
    assert train(alone(elsewhere, 8), moved) == before
    arrays = dict(np.load(data_file))
    arrays["test_images"][0] += 1
    np.savez(elsewhere.with_name("other.npz"), **arrays)
    with pytest.raises(UserError, match=r"trained on other data: data.path"):
        train(alone(elsewhere.with_name("other.npz"), 8), moved)


def test_what_depends_on_the_length_is_named(data_file):  # noqa: F811
    short, long = alone(data_file, 8, "cosine"), alone(data_file, 12, "cosine")
    before, after = build(short), build(long)
    assert growth.differences(before, after, 8) == [
        "the learning rate of supervised was another"
    ]
    long.optim.schedule = short.optim.schedule = "constant"
    short.eval_every = long.eval_every = 5.0
    found = growth.differences(build(short), build(long), 8)
    assert found == ["step 8 was evaluated for the best parameters, too"]
    assert growth.differences(build(short), build(long), 5) == []


def test_a_folder_in_which_nothing_was_trained_is_free(data_file, tmp_path):  # noqa: F811
    first, second = alone(data_file, 4), alone(data_file, 4)
    second.batch_size = 8
    (tmp_path / "config.json").write_text(json.dumps(configs.resolved(first)))
    assert growth.plan(tmp_path, second) == growth.Change(vacant=True)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    assert growth.plan(tmp_path, second) is None


def test_plans(data_file, tmp_path):  # noqa: F811
    config = make_config(data_file)
    (tmp_path / "config.json").write_text(json.dumps(configs.resolved(config)))
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    assert growth.plan(tmp_path, config) is None

    def planned(**changed):
        other = make_config(data_file)
        for key, value in changed.items():
            other[key] = value
        return growth.plan(tmp_path, other)

    rows = {name: row.to_dict() for name, row in config.students.items()}
    more = configs.students({"ce": {"method": "supervised"}, **rows})
    assert planned(students=more) == growth.Change(added=("ce",))
    assert planned(duration=20) == growth.Change(longer=True)
    assert planned(duration=8) is None
    assert planned(students=more, duration=20) is None
    fewer = configs.students({"kd": rows["kd"]})
    assert planned(students=fewer) is None
    need = configs.needed(configs.standalone(config.needs.teacher), str(tmp_path))
    assert planned(needs=ConfigDict({"teacher": need})) == growth.Change(
        moved=("needs.teacher.init_from",)
    )


@pytest.mark.slow
def test_added_students_equal_those_of_a_joint_study(data_file, tmp_path):  # noqa: F811
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    joint = make_config(data_file)
    rows = {name: row.to_dict() for name, row in joint.students.items()}
    rows = {"dkd": {"method": "dkd"}, **rows}
    joint.students = configs.students(rows)
    expected = train(joint, whole)
    train(make_config(data_file), grown)
    kept = parameters(grown, "kd", 2)
    results = train(joint, grown)
    assert list(results["students"]) == ["dkd", "rld", "kd"]
    assert_equal(parameters(grown, "kd", 2), kept)
    for seed in (1, 2):
        ours, theirs = parameters(grown, "dkd", seed), parameters(whole, "dkd", seed)
        # To rounding: it is compiled alone here, and with the others there.
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, ours, theirs)
    for name, row in expected["students"].items():
        for metric, values in row["last"].items():
            np.testing.assert_allclose(
                results["students"][name]["last"][metric], values, rtol=1e-4
            )
    ours, theirs = (
        {
            (record["step"], key): value
            for record in read_metrics(folder)
            for key, value in record.items()
            if key.startswith("test_top1/")
        }
        for folder in (grown, whole)
    )
    # When kd ends, at step 6, a joint study evaluates the others, too.
    assert ours.items() <= theirs.items() and {step for step, _ in ours} == {
        4,
        6,
        8,
        12,
    }
    assert train(joint, grown) == results
    assert not (grown / "checkpoints-before").exists()
