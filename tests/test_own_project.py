"""The example of a project outside the package, run as its README says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxkd import api
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.training import workdir as workdirs

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_project"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy elsewhere, in which the walk-through has been run."""
    folder = tmp_path_factory.mktemp("elsewhere") / "own_project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("runs", "__py*"))
    command = [sys.executable, "walkthrough.py", "--quick", "--export"]
    root = str(Path(api.__file__).parent.parent)
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {
            "PYTHONPATH": root,
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        },
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def workdir(project, monkeypatch):
    """The run, in a process that has not seen the project yet."""
    monkeypatch.setattr(lookup, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return project[0] / "runs" / "shapes-quick"


def test_walkthrough_prints_what_it_promises(project):
    printed = project[1]
    for line in ("ce ", "kd ", "correlation  top-1 ", "logits (1, 4), pooled"):
        assert line in printed
    assert printed.count("is held for a") == 8
    assert "student.stablehlo" in printed


def test_own_loss_is_measured_under_its_name(workdir):
    results = api.results(str(workdir))
    row = results["students"]["correlation"]
    assert row["method"] == "correlation.py:make"
    assert row["model"] == "network.py:PatchNet"
    assert 0 < row["train"]["correlation"][0] < 2
    # Equal weights and batches at the start, another loss: another end.
    assert row["last"]["top1"] != results["students"]["ce"]["last"]["top1"] or (
        row["train"]["loss"] != results["students"]["ce"]["train"]["loss"]
    )


def test_loaded_student_computes_what_its_parts_compute(workdir):
    model = api.load(workdir, student="correlation", seed=2)
    assert model.class_names == ("disc", "ring", "square", "cross")
    shapes = lookup.own_module("shapes.py:load", what="data")
    rng = np.random.default_rng(5)
    images = np.stack([shapes.draw(i % 4, 16, rng) for i in range(70)])  # two batches
    info = shapes.load(train=100, test=40).info
    seen = (images / 255 - np.array(info.mean)) / np.array(info.std)
    logits, features = model.apply(seen.astype(np.float32))
    assert features["pooled"].shape == (70, 24)
    exponents = np.exp(np.asarray(logits, np.float64))
    expected = exponents / exponents.sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict(images), expected, atol=1e-5)
    assert model.preprocessing()["formula"] == "(image / 255 - mean) / std"
    other = api.load(workdir, student="correlation", seed=1)
    assert np.abs(other.predict(images) - expected).max() > 1e-3


def test_exported_student_is_the_loaded_one(workdir):
    pytest.importorskip("flatbuffers")
    model = api.load(workdir, student="correlation", seed=2)
    data = (workdir / "student.stablehlo").read_bytes()
    exported = jax.export.deserialize(bytearray(data))
    inputs = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)
    logits = exported.call(inputs)
    np.testing.assert_allclose(logits, model.apply(inputs)[0], atol=1e-5)
    beside = json.loads((workdir / "student.stablehlo.json").read_text())
    assert beside["class_names"] == ["disc", "ring", "square", "cross"]
    assert beside["student"] == "correlation" and beside["seed"] == 2
    assert beside["preprocessing"]["formula"] == "(image / 255 - mean) / std"


def test_training_again_reads_the_run_and_another_place_is_no_other_run(
    project, workdir, tmp_path
):
    before = (workdir / "results.json").read_bytes()
    results = api.train(f"{project[0] / 'config.py'}:quick", workdir)
    # What the file holds beside them seals it.
    assert results | {"seal": json.loads(before)["seal"]} == json.loads(before)
    # The same project somewhere else, its runs with it.
    moved = tmp_path / "moved"
    shutil.copytree(project[0], moved)
    api.train(f"{moved / 'config.py'}:quick", str(moved / "runs" / "shapes-quick"))
    assert workdirs.read_config(workdir).code == str(project[0])


def test_mistakes_in_images_are_named(workdir):
    model = api.load(workdir, "kd")
    for images in (np.zeros((2, 16, 16, 3)), np.zeros((16, 16, 3), np.uint8)):
        with pytest.raises(UserError, match=r"expected uint8 \('n', 16, 16, 3\)"):
            model.predict(images)
    with pytest.raises(UserError, match=r"uint8 from 0 to 1, .*not divided by 255"):
        model.predict(np.eye(16, dtype=np.uint8)[None, :, :, None].repeat(3, 3))
    with pytest.raises(UserError, match="at least one"):
        model.predict(np.zeros((0, 16, 16, 3), np.uint8))


def test_missing_code_is_named(workdir, tmp_path):
    lonely = tmp_path / "lonely"
    shutil.copytree(workdir, lonely)
    config = json.loads((lonely / "config.json").read_text())
    config["code"] = str(tmp_path / "gone")
    (lonely / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"no file network\.py in .*gone"):
        api.load(lonely, student="kd")


def test_own_network_of_another_kind_is_refused(tmp_path, monkeypatch):
    from jaxkd import models

    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.py").write_text("def build(num_classes, dtype=None): return 3\n")
    with pytest.raises(UserError, match="makes a int, expected a Linen module"):
        models.build("odd.py:build", 4)
    with pytest.raises(UserError, match="has no option 'widht', expected one of dtype"):
        models.build("odd.py:build", 4, widht=3)
