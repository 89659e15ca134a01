"""Runs of version 0.1, whose names were others, still load, resume and serve.

``fixtures/runs_of_version_0_1.tar.xz`` holds a study of three students (cross entropy,
KD, FitNets) of two seeds on scikit-learn's digits, trained by that version: once to its
end, and once stopped after step 5 of 9.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import aliases, checkpoint, records
from jaxkd.core import config as configs
from jaxkd.evaluate import evaluate_run
from jaxkd.train import train

ARCHIVE = Path(__file__).parent / "fixtures" / "runs_of_version_0_1.tar.xz"
STUDENTS = ("ce", "kd", "fitnet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_of(name, width, steps):
    config = configs.default()
    config.name = name
    config.model = ConfigDict(
        {"name": "resnet8", "stem": 3, "widths": (width,), "strides": (2,)}
    )
    config.data = ConfigDict({"name": "digits"})
    config.batch_size, config.eval_batch_size = 16, 270
    config.unit, config.duration = "steps", steps
    config.eval_every = config.checkpoint_every = 3
    return config


def study():
    """The configuration as it is written today."""
    config = run_of("old", 3, 9)
    config.seeds, config.ema, config.reference = (0, 1), 0.5, "kd"
    config.needs = ConfigDict({"teacher": configs.needed(run_of("teacher", 4, 6))})
    config.students = configs.students(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd"},
            "fitnet": {"method": "fitnet", "loss": {"layer": "stage1"}},
        }
    )
    return config


def test_a_finished_run_is_read_and_evaluated(runs):
    results = train(study(), runs / "finished")
    assert list(results["students"]) == list(STUDENTS)
    text = evaluate_run(runs / "finished", None, "last")
    found = json.loads((runs / "finished" / "eval.json").read_text())["students"]
    for name in STUDENTS:
        assert name in text
        np.testing.assert_allclose(
            found[name]["top1"], results["students"][name]["last"]["top1"], atol=1e-6
        )


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(runs):
    config = study()
    config.allow_weak_teacher = True  # the stored one has seen few steps
    train(config, runs / "stopped")
    for student in STUDENTS:
        for seed in (0, 1):
            got, expected = (
                checkpoint.load_member(
                    runs / name / "checkpoints", "last", student, seed
                )
                for name in ("stopped", "finished")
            )
            for a, b in zip(
                jax.tree.leaves(got), jax.tree.leaves(expected), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_old_names_are_read_under_the_new_ones(runs):
    saved = records.read_config(runs / "finished")
    saved["model"]["view"] = "low"
    saved["students"]["kd"]["loss"] = {"weight": 2.0}
    saved["students"]["sum"] = {"method": "kd+crd", "loss": {"crd": {"weight": 1.0}}}
    saved["needs"]["teacher"]["method"] = "denoiser"
    config = configs.from_json(saved)
    assert config.model.input == "low" and "view" not in config.model
    assert config.students["kd"].loss.kd_weight == 2.0
    assert config.students["sum"].loss.crd.crd_weight == 1.0
    assert config.needs.teacher.method == "gdrd_generator"


def test_the_clamp_of_the_localiser_is_the_optimisers():
    upgraded = aliases.upgrade({"method": "defi", "loss": {"clamp": 0.2}, "optim": {}})
    assert upgraded["optim"]["clip_value"] == 0.2 and upgraded["loss"] == {}
