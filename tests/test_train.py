"""Whole runs on a tiny data set: results, resuming, killing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import train as training
from jaxkd.core import checkpoint, integrity
from jaxkd.core import config as configs
from jaxkd.core.checkpoint_saving import Checkpoints
from jaxkd.core.errors import UserError
from jaxkd.core.writers import read_metrics
from jaxkd.report import page
from jaxkd.train import train
from jaxkd.training import workdir as workdirs

MODEL = {"name": "resnet8", "stem": 3, "widths": (4,), "strides": (2,)}


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """Images whose class is the place of a bright square, as an npz file."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 96), ("test", 40)):
        labels = np.arange(count) % 4
        images = rng.integers(0, 90, (count, 8, 8, 3))
        for image, label in zip(images, labels, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[row : row + 4, column : column + 4] += 120
        arrays |= {f"{split}_images": images.astype(np.uint8)}
        arrays |= {f"{split}_labels": labels}
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    np.savez(path, **arrays)
    return path


def make_config(data_file: Path, steps: int = 12) -> ConfigDict:
    config = configs.default()
    config.name = "teacher"
    config.model = ConfigDict(MODEL)
    config.data = ConfigDict({"name": "npz", "path": str(data_file)})
    config.view = ConfigDict({"name": "crop_flip", "pad": 1, "flip": False})
    config.batch_size, config.eval_batch_size = 16, 40
    config.unit, config.duration = "steps", steps
    config.eval_every = config.checkpoint_every = 4
    config.steps_per_call = 3
    need = configs.needed(config)
    config.name, config.reference, config.seeds = "study", "kd", (1, 2)
    config.allow_weak_teacher = True  # it has hardly been trained
    config.needs = ConfigDict({"teacher": need})
    config.students = configs.students(
        {
            "rld": {"method": "rld", "loss": {"warmup": 4.0}},
            "kd": {"method": "kd", "duration": steps // 2},
        }
    )
    return config


def final_params(workdir: Path, use: str = "last") -> dict[str, np.ndarray]:
    members = [(name, seed) for name in ("rld", "kd") for seed in (1, 2)]
    trees = {"teacher": checkpoint.load_member(workdir / "teacher/checkpoints", use)}
    for name, seed in members:
        trees[f"{name}{seed}"] = checkpoint.load_member(
            workdir / "checkpoints", use, name, seed
        )
    flat, _ = jax.tree_util.tree_flatten_with_path(trees)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def assert_same(one: Path, other: Path) -> None:
    for use in ("last", "best"):
        a, b = final_params(one, use), final_params(other, use)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{use} {name}")


def without_times(records):
    return [{k: v for k, v in record.items() if k != "time"} for record in records]


@pytest.fixture(scope="module")
def finished(data_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    results = train(make_config(data_file), workdir)
    return workdir, results


def test_a_run_leaves_everything_behind(finished):
    workdir, results = finished
    for folder in (workdir, workdir / "teacher"):
        for name in ("config.json", "metrics.jsonl", "results.json", "report.html"):
            assert (folder / name).stat().st_size > 0
        assert list((folder / "tensorboard").glob("events*"))
        assert list((folder / "figures").glob("*.png"))
    assert workdirs.read_results(workdir) == results
    assert not (workdir / "lock").exists()
    assert results["students"]["kd"]["steps"] == 6
    assert (
        results["frozen"]["teacher"]["parameters"]
        == (results["students"]["rld"]["parameters"])
    )


def test_results_are_those_of_the_records(finished):
    workdir, results = finished
    records = read_metrics(workdir)
    tops = {"rld": [], "kd": []}
    for record in records:
        for name, found in tops.items():
            if f"test_top1/{name}/1" in record:
                found.append((record[f"test_top1/{name}/1"], record["step"]))
    assert [step for _, step in tops["rld"]] == [4, 6, 8, 12]
    assert [step for _, step in tops["kd"]] == [4, 6]
    for name, found in tops.items():
        student = results["students"][name]
        assert student["last"]["top1"][0] == pytest.approx(found[-1][0])
        assert student["best"]["top1"][0] == pytest.approx(max(found)[0])
        first = next(step for top, step in found if top == max(found)[0])
        assert student["best"]["step"][0] == first


def test_confusion_counts_every_test_example_of_every_seed(finished):
    workdir, results = finished
    with np.load(workdir / "confusion.npz") as counts:
        for name in ("rld", "kd"):
            assert counts[name].sum(axis=1).tolist() == [20, 20, 20, 20]
            right = np.trace(counts[name]) / counts[name].sum()
            top1 = results["students"][name]["last"]["top1"]
            assert right == pytest.approx(np.mean(top1))


def test_a_finished_run_is_only_read(finished, data_file, monkeypatch):
    workdir, results = finished
    monkeypatch.setattr(training, "build", None)
    assert train(make_config(data_file), workdir) == results


def test_a_needed_runs_report_is_drawn_beside_the_training(
    data_file, tmp_path, monkeypatch
):
    """And an error of it is raised when the training has been saved."""
    begun, write_report, loop = threading.Event(), page.write_report, training._loop

    def write(workdir):
        if workdir == tmp_path / "teacher":
            assert begun.wait(60), "the training waits for the report"
            raise UserError("the disk is full")
        return write_report(workdir)

    def begin(run, *args):
        if run.config.name == "study":
            begun.set()
        return loop(run, *args)

    monkeypatch.setattr(page, "write_report", write)
    monkeypatch.setattr(training, "_loop", begin)
    config = make_config(data_file, steps=4)
    with pytest.raises(UserError, match="the disk is full"):
        train(config, tmp_path)
    assert (tmp_path / "report.html").exists()

    monkeypatch.setattr(page, "write_report", write_report)
    assert train(config, tmp_path)["finished"]
    train(configs.standalone(config.needs.teacher), tmp_path / "teacher")
    assert (tmp_path / "teacher/report.html").exists()


@pytest.mark.slow
def test_training_lowers_the_loss(data_file, tmp_path):
    config = configs.standalone(make_config(data_file, steps=60).needs.teacher)
    config.model.update({"widths": (4, 6), "strides": (2, 2)})
    config.optim.lr = 0.05
    results = train(config, tmp_path)
    key = "train_loss/supervised/0"
    losses = [r[key] for r in read_metrics(tmp_path) if key in r]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert results["students"]["supervised"]["last"]["top1"][0] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("calls", [1, 3, 4, 6])
def test_interrupted_runs_end_as_the_uninterrupted(
    calls, finished, data_file, tmp_path, monkeypatch
):
    """Stops after some checkpoints, teacher's and students', and starts again."""
    save, count = Checkpoints.save, 0

    def interrupt(self, *args):
        nonlocal count
        save(self, *args)
        count += 1
        if count == calls:
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(make_config(data_file), tmp_path)
    train(make_config(data_file), tmp_path)
    assert_same(tmp_path, finished[0])
    for part in ("", "teacher"):
        ours, theirs = read_metrics(tmp_path / part), read_metrics(finished[0] / part)
        assert without_times(ours) == without_times(theirs)


def test_other_calls_and_devices_do_not_count_as_another_run(finished, data_file):
    config = make_config(data_file)
    config.steps_per_call, config.keep = 2, 7
    assert train(config, finished[0]) == finished[1]


def test_another_configuration_is_refused(finished, data_file):
    config = make_config(data_file)
    config.students.rld.loss.warmup = 5.0
    with pytest.raises(UserError, match=r"students\.rld\.loss\.warmup: 4\.0 -> 5\.0"):
        train(config, finished[0])


@pytest.mark.slow
def test_other_frozen_networks_are_refused(data_file, tmp_path, finished):
    config = make_config(data_file)
    config.needs.teacher.init_from = str(finished[0] / "teacher")
    save = Checkpoints.save

    def stop(self, *args):
        save(self, *args)
        self.wait()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
        patch.setattr(integrity, "content_hash", lambda tree: "another")
        with pytest.raises(UserError, match="other frozen networks"):
            train(config, tmp_path)


def test_rules_that_fit_nothing_are_refused_before_the_teacher_is_trained(
    data_file, tmp_path
):
    config = make_config(data_file)
    config.sharding = (("no_such_layer", "fsdp"),)
    with pytest.raises(UserError, match="'no_such_layer' is found in no leaf's path"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_teacher_of_another_model_is_refused(data_file, tmp_path, finished):
    config = make_config(data_file)
    config.needs.teacher.init_from = str(finished[0] / "teacher")
    saved = json.loads((finished[0] / "teacher/config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "checkpoints").symlink_to(finished[0] / "teacher/checkpoints")
    saved["model"]["widths"] = [5]
    (other / "config.json").write_text(json.dumps(saved))
    config.needs.teacher.init_from = str(other)
    with pytest.raises(UserError, match=r"got \(4,\), expected \(5,\)"):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_diverging_training_stops_and_says_so(data_file, tmp_path):
    config = make_config(data_file)
    config.students.kd.optim = ConfigDict({"lr": 1e30})
    config.max_skipped = 3
    with pytest.raises(UserError, match=r"not finite for kd/1 .*, kd/2 .*step 4 is"):
        train(config, tmp_path)
    for leaf in jax.tree.leaves(
        checkpoint.load_member(tmp_path / "checkpoints", "last")
    ):
        assert np.isfinite(leaf).all()


CONFIG_FILE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests import test_train
def get_config(arg=""):
    config = test_train.make_config(Path({data!r}), steps=400)
    config.checkpoint_every = config.eval_every = 20
    config.needs.teacher.checkpoint_every = config.needs.teacher.eval_every = 20
    config.steps_per_call = config.needs.teacher.steps_per_call = 5
    return config
"""


def start(config_file: Path, workdir: Path, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxkd.main", f"--config={config_file}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def stop_when(process: subprocess.Popen, folder: Path, how: int) -> str:
    """Sends a signal as soon as a checkpoint of ``folder`` is complete.

    Returns:
      What the run wrote to standard error.
    """
    deadline = time.monotonic() + 120
    while not any(p.name.isdigit() for p in folder.glob("*")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == (-how if how == signal.SIGKILL else 75), errors
    return errors


def finish(process: subprocess.Popen) -> str:
    errors = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def long_run(data_file, tmp_path_factory):
    """A configuration file, a compile cache, and the uninterrupted run's folder."""
    folder = tmp_path_factory.mktemp("long")
    config_file = folder / "config.py"
    tests = str(Path(__file__).parent.parent)
    config_file.write_text(CONFIG_FILE.format(tests=tests, data=str(data_file)))
    finish(start(config_file, folder / "whole", folder / "cache"))
    return config_file, folder / "cache", folder / "whole"


@pytest.mark.slow
def test_killed_processes_resume_bit_for_bit(long_run, tmp_path):
    config_file, cache, whole = long_run

    def again():
        return start(config_file, tmp_path, cache)

    stop_when(again(), tmp_path / "teacher/checkpoints", signal.SIGKILL)
    assert not (tmp_path / "teacher/results.json").exists()
    stop_when(again(), tmp_path / "checkpoints", signal.SIGKILL)
    assert (tmp_path / "teacher/results.json").exists()
    assert not (tmp_path / "results.json").exists()
    finish(again())
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_signals_save_and_the_run_resumes_bit_for_bit(long_run, tmp_path):
    """SIGTERM while the teacher trains, SIGINT while the students do."""
    config_file, cache, whole = long_run

    def again():
        return start(config_file, tmp_path, cache)

    for folder, how in (("teacher/", signal.SIGTERM), ("", signal.SIGINT)):
        errors = stop_when(again(), tmp_path / f"{folder}checkpoints", how)
        name = signal.Signals(how).name
        told = re.search(rf"{name}: \w+ stopped after step (\d+) of 400\.", errors)
        saved = [p.name for p in (tmp_path / f"{folder}checkpoints").glob("*")]
        assert told and told[1] in saved, errors
        assert not (tmp_path / f"{folder}results.json").exists()
    finish(again())
    assert_same(tmp_path, whole)
    for part in ("", "teacher"):
        ours, theirs = read_metrics(tmp_path / part), read_metrics(whole / part)
        assert [r["step"] for r in ours] == [r["step"] for r in theirs]
        for one, other in zip(ours, theirs, strict=True):
            for key in one.keys() - {"time"}:
                assert one[key] == pytest.approx(other[key], rel=1e-5)


@pytest.mark.slow
def test_a_truncated_checkpoint_costs_only_the_steps_since_the_one_before(
    long_run, tmp_path
):
    config_file, cache, whole = long_run
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "results.json").unlink()
    newest = tmp_path / "checkpoints/400"
    files = [p for p in (newest / "state").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    errors = finish(start(config_file, tmp_path, cache))
    assert re.search(r"checkpoints/400 is damaged .* from the one before", errors)
    assert_same(tmp_path, whole)
