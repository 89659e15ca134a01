"""Frozen networks are measured on the run's own test examples; weak ones refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import models
from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.train import train
from jaxkd.training import build, preprocessing, reads, teachers
from tests.conftest import squares_config, write_squares


@pytest.fixture(scope="module")
def taught(finished_run, tmp_path_factory):
    """The configuration and the results of a study with a teacher of other data.

    Its images are darker, and its classes are three of the teacher's, turned round.
    """
    folder = tmp_path_factory.mktemp("taught")
    path = write_squares(folder / "whole.npz", seed=7)
    with np.load(path) as file:
        arrays = dict(file)
    for split in ("train", "test"):
        kept = arrays[f"{split}_labels"] > 0
        arrays[f"{split}_images"] = arrays[f"{split}_images"][kept] // 2
        arrays[f"{split}_labels"] = 3 - arrays[f"{split}_labels"][kept]
    np.savez(folder / "dark.npz", **arrays)
    config = squares_config(folder / "dark.npz")
    config.data.class_names = ("se", "sw", "ne")
    config.duration, config.name = 2, "taught"
    need = configs.needed(config, f"{finished_run[0]}:student=zebra,seed=1")
    config.needs = ConfigDict({"teacher": need})
    config.students = configs.students({"ce": {}, "kd": {"method": "kd"}})
    config.allow_weak_teacher = True
    return config, train(config, folder / "run"), folder


def test_the_figure_is_of_these_images_and_classes(finished_run, taught):
    """Of the images as the teacher's own run normalises them, by NumPy."""
    _, results, folder = taught
    member = checkpoint.load_member(finished_run[0] / "checkpoints", "last", "zebra", 1)
    info = preprocessing.read(finished_run[0])
    network = models.build("resnet8", 4, stem=3, widths=(4,), strides=(2,))
    with np.load(folder / "dark.npz") as file:
        images, labels = file["test_images"], file["test_labels"]
    seen = (images / 255 - np.array(info.mean)) / np.array(info.std)
    logits, _ = network.apply(member, jnp.asarray(seen, jnp.float32))
    right = np.asarray(logits)[:, [3, 2, 1]].argmax(1) == labels
    teacher = results["frozen"]["teacher"]
    assert teacher["top1"] == pytest.approx(right.mean(), abs=1e-6)
    assert teacher["classes"] == [3, 2, 1] and teacher["seed"] == 1
    saved = json.loads((folder / "run" / "results.json").read_text())
    assert saved["preprocessing"]["class_names"] == ["se", "sw", "ne"]


@pytest.mark.parametrize(
    ("top1", "loss", "message"),
    [
        ([0.36], [1.1], r"36\.0 %, near chance \(33\.3 %\).*allow_weak_teacher"),
        ([0.9, 0.2], [1.1, 1.1], r"is 20\.0 %"),
        ([0.9], [float("nan")], "are not finite"),
        ([0.9], [1.1], None),
    ],
)
def test_a_weak_teacher_is_refused(taught, top1, loss, message):
    config = taught[0].copy_and_resolve_references()
    config.students, config.needs = taught[0].students, taught[0].needs
    measured = {"teacher": {"top1": top1, "loss": loss}}
    teachers.check(build.build(config), measured)  # as it allows that
    config.allow_weak_teacher = False
    run = build.build(config)
    assert reads.taught_by(run) == {"teacher"}
    if message is None:
        teachers.check(run, measured)
        return
    with pytest.raises(UserError, match=message):
        teachers.check(run, measured)


def test_a_teacher_that_does_not_know_a_class_is_refused(taught, tmp_path):
    config = taught[0].copy_and_resolve_references()
    config.students, config.needs = taught[0].students, taught[0].needs
    config.data.class_names = ("se", "south", "ne")
    with pytest.raises(UserError, match=r"needs\.teacher does not know 1 of 3.*south"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
