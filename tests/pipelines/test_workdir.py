"""The folder of a pipeline's run keeps the contract of a training's."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxkd
from jaxkd import api, evaluate, pipelines
from jaxkd.core import config as configs
from jaxkd.core import config_file
from jaxkd.core.errors import Interrupted, UserError
from jaxkd.pipelines import chat_verification, gits, scene_model
from jaxkd.pipelines import workdir as folders
from jaxkd.pipelines.dtiil import benchmark, scene_pairs
from jaxkd.pipelines.dtiil.localization import Finding
from jaxkd.pipelines.dtiil.words import phrases
from jaxkd.report import compare
from jaxkd.training.workdir_lock import locked
from tests.pipelines import test_gits
from tests.pipelines.chat_verification.chat_server import ChatServer
from tests.pipelines.killed import edits
from tests.training.test_workdir_lock import HOLD

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "workdir.md"


def contradictions(**changed):
    config = config_file.load("dtiil:quick")
    config.update({"pairs": 4, "validation": 2, "seeds": (0, 1)})
    config.controls = ("two words",)
    config.update(changed)
    return config


def schedules(**changed):
    config = test_gits.small(solvers=("ipndm",), schedules=("polynomial", "logsnr"))
    config.update(changed)
    return config


@pytest.fixture(scope="module")
def chat():
    pytest.importorskip("openai")
    with ChatServer(("fine",), "sk-test") as server:

        def configure(**changed):
            config = chat_verification.default()
            config.base_url, config.key_variable = server.url, "JAXKD_TEST_KEY"
            config.update({"model": "rule", "pairs": 6, "size": 24, "workers": 1})
            config.update(changed)
            return config

        yield configure


def find(backbone, images, captions, key, settings):
    """Finds something anywhere, by the key; it stands for minutes of computing."""
    state = np.asarray(jax.random.key_data(key)).tolist()
    rng = np.random.default_rng([*state, len(images)])
    found = []
    for image, caption in zip(images, captions, strict=True):
        maps = rng.random((2, 32, 32))
        words = phrases(caption)
        found.append(
            Finding(
                mask=maps[0] > 0.5,
                difference=maps[0],
                first_mask=maps[1] > 0.5,
                first_difference=maps[1],
                edited=1 - image,
                phrases=words,
                phrase_scores=rng.random(len(words)),
                phrase=words[0],
                embedding_similarity=float(rng.random()),
                mean_difference=float(maps[0].mean()),
            )
        )
    return found


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    """Replaces what takes minutes and is tested elsewhere."""

    def load(need, stop_requested, workdir=None):
        if workdir is not None:
            folders.note_network(workdir, "scenes", "tiny", {"w": np.zeros(3)})

    def attend(backbone, pairs, found, key):
        return np.stack([one.first_difference.T for one in found])

    def draw(config, workdir, results):
        (workdir / "report.html").write_text(results["name"])

    monkeypatch.setenv("JAXKD_TEST_KEY", "sk-test")
    monkeypatch.setattr(scene_model, "load", load)
    monkeypatch.setattr(benchmark, "localise", find)
    monkeypatch.setattr(scene_pairs, "attention_maps", attend)
    monkeypatch.setattr(
        scene_pairs,
        "whole_caption_errors",
        lambda backbone, pairs, key: pairs.images.mean((1, 2, 3)),
    )
    monkeypatch.setattr(gits, "write_report", draw)


@pytest.fixture
def systems(chat):
    return {
        "gits": schedules,
        "parallel_edits": edits,
        "dtiil": contradictions,
        "chat_verification": chat,
    }


NAMES = ("gits", "parallel_edits", "dtiil", "chat_verification")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs each pipeline once, when it is first wanted; gives copies of its folder."""
    done = {}

    def run(name, config, tmp_path):
        if name not in done:
            done[name] = tmp_path_factory.mktemp(name) / "run"
            pipelines.run(config, done[name])
        return shutil.copytree(done[name], tmp_path / "run")

    return run


def timeless(tree):
    """A tree without dates and seconds."""
    if isinstance(tree, dict):
        return {
            key: timeless(value)
            for key, value in tree.items()
            if key not in ("seconds", "seconds_per_call", "date")
        }
    return [timeless(one) for one in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_the_documented_schema(name, systems, finished, tmp_path):
    workdir = finished(name, systems[name](), tmp_path)
    common, measured = (
        DOCS.read_text().split("<!-- pipeline schema -->")[1].split("<!-- measured -->")
    )
    keys = re.findall(r"^\| `(\w+)` \|", common, re.M)
    (own,) = re.findall(rf"^\| `{name}` \| (.*) \|$", measured, re.M)
    results = api.results(workdir)
    listed = {part.split("`")[1] for part in own.split("; ")} | set(
        re.findall(r"`(\w+)`", own)
    )
    assert set(results) == set(keys) | listed
    assert results["finished"] and results["pipeline"] == name
    assert results["version"] == jaxkd.__version__
    assert set(results["provenance"]) == {"date", "command", "version", "commit"}
    assert results["environment"]["devices"] >= 1
    # What api.results reads is what the run returns, also when it is run again.
    assert pipelines.run(systems[name](), workdir) == results
    assert pipelines.format_table(results)
    assert not (workdir / "lock").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_digit_is_no_result(name, systems, finished, tmp_path):
    workdir = finished(name, systems[name](), tmp_path)
    path = workdir / "results.json"
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(UserError, match=r"results\.json"):
        pipelines.run(systems[name](), workdir)


def test_a_second_process_is_refused_in_one_line(systems, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        for configure in systems.values():
            with pytest.raises(UserError, match=f"process {other.pid}, since") as got:
                pipelines.run(configure(), tmp_path)
            assert len(str(got.value).splitlines()) == 1
        other.send_signal(signal.SIGKILL)
    assert not (tmp_path / "config.json").exists()


CHANGES = {
    "gits": ({"blocks": 3}, r"blocks: 2 -> 3"),
    "parallel_edits": ({"scenes": 3}, r"scenes: 2 -> 3"),
    "dtiil": ({"pairs": 6}, r"pairs: 4 -> 6"),
    "chat_verification": ({"pairs": 8}, r"pairs: 6 -> 8"),
}


@pytest.mark.parametrize("name", NAMES)
def test_another_configuration_is_refused(name, systems, finished, tmp_path):
    workdir, (change, line) = finished(name, systems[name](), tmp_path), CHANGES[name]
    before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=rf"another configuration.*\n  {line}\n"):
        pipelines.run(systems[name](**change), workdir)
    # Also while it is not finished, and when its own configuration is lost.
    (workdir / "results.json").unlink()
    with pytest.raises(UserError, match=line):
        pipelines.run(systems[name](**change), workdir)
    (workdir / "config.json").unlink()
    with pytest.raises(UserError, match=r"but not its config\.json"):
        pipelines.run(systems[name](), workdir)
    for path, content in before.items():
        path.write_bytes(content)
    # A name changes no result.
    again = pipelines.run(systems[name](name="another"), workdir)
    assert again == api.results(workdir)


def test_a_changed_needed_run_is_named(finished, tmp_path):
    workdir = finished("parallel_edits", edits(), tmp_path)
    config = edits()
    config.needs.scenes.duration = 77
    with pytest.raises(UserError, match=r"needs\.scenes\.duration: 40\.0 -> 77"):
        pipelines.run(config, workdir)
    # Keys of a training that change no result are none of a pipeline's either.
    config = edits()
    config.needs.scenes.max_skipped = 7
    assert pipelines.run(config, workdir) == api.results(workdir)
    # A key that came later has its default.
    saved = json.loads((workdir / "config.json").read_text())
    del saved["types"], saved["needs"]["scenes"]["accumulate"]
    (workdir / "config.json").write_text(json.dumps(saved))
    assert pipelines.run(edits(), workdir) == api.results(workdir)


def test_a_folder_in_which_nothing_was_computed_is_free(tmp_path):
    with pytest.raises(Interrupted):
        pipelines.run(edits(scenes=3), tmp_path, lambda: "SIGTERM")
    assert (tmp_path / "config.json").exists()
    results = pipelines.run(edits(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["scenes"] == 2
    assert len(results["cells"]) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_run_goes_on_to_the_same_results(name, systems, finished, tmp_path):
    whole = api.results(finished(name, systems[name](), tmp_path))
    stops = iter([None, None, "SIGTERM"])
    workdir = tmp_path / "stopped"
    config = systems[name](nfe=(3, 4, 5, 6)) if name == "gits" else systems[name]()
    if name == "gits":
        whole = pipelines.run(config, tmp_path / "whole")
    with pytest.raises(Interrupted, match="same command"):
        pipelines.run(config, workdir, lambda: next(stops, "SIGTERM"))
    assert not (workdir / "results.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in workdir.glob("cells/*")}
    if name == "chat_verification":
        assert len((workdir / "answers.jsonl").read_text().splitlines()) == 2
    else:
        assert len(list(workdir.glob("cells/*.json"))) == 2
    assert timeless(pipelines.run(config, workdir)) == timeless(whole)
    assert (
        kept.items()
        <= {p: p.stat().st_mtime_ns for p in workdir.glob("cells/*")}.items()
    )


def test_a_killed_run_goes_on_to_the_same_results(finished, tmp_path):
    whole = finished("parallel_edits", edits(), tmp_path)
    workdir = tmp_path / "killed"
    module = f"{__package__}.killed"
    run = subprocess.run(
        [sys.executable, "-m", module, str(workdir), "3"], cwd=ROOT, check=False
    )
    assert run.returncode == -signal.SIGKILL
    assert len(list(workdir.glob("cells/*.json"))) == 3
    assert (workdir / "lock").exists()
    # What it was writing when it was killed is swept away.
    (workdir / "cells" / ".tmp-1-abc.json").write_text("{")
    results = pipelines.run(edits(), workdir)
    assert timeless(results)["cells"] == timeless(api.results(whole))["cells"]
    assert timeless(results)["tables"] == timeless(api.results(whole))["tables"]
    for name in ("edits-1.png", "edits-2.png"):
        pictures = [folder / "figures" / name for folder in (workdir, whole)]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert {path.suffix for path in workdir.glob("cells/*")} == {".json", ".npz"}


def test_parts_of_two_networks_are_not_mixed(tmp_path, monkeypatch):
    stops = iter([None, "SIGTERM"])
    with pytest.raises(Interrupted):
        pipelines.run(edits(), tmp_path, lambda: next(stops))

    def load(need, stop_requested, workdir):
        folders.note_network(workdir, "scenes", "other", {"w": np.ones(3)})

    monkeypatch.setattr(scene_model, "load", load)
    with pytest.raises(UserError, match="another network 'scenes': its hash was"):
        pipelines.run(edits(), tmp_path)


def test_a_damaged_part_is_named(tmp_path):
    stops = iter([None, "SIGTERM"])
    with pytest.raises(Interrupted):
        pipelines.run(edits(), tmp_path, lambda: next(stops))
    (path,) = tmp_path.glob("cells/*.json")
    path.write_text(path.read_text().replace('"aspects": 0.0', '"aspects": 1.0'))
    with pytest.raises(UserError, match=f"{path.name}.*Delete it: the same command"):
        pipelines.run(edits(), tmp_path)
    path.unlink()
    assert all(c["aspects"] == 0 for c in pipelines.run(edits(), tmp_path)["cells"])


@pytest.mark.parametrize("name", NAMES)
def test_a_lost_report_is_drawn_again(name, systems, finished, tmp_path):
    workdir = finished(name, systems[name](), tmp_path)
    before = (workdir / "report.html").read_text()
    results = (workdir / "results.json").read_bytes()
    (workdir / "report.html").unlink()
    shutil.rmtree(workdir / "figures", ignore_errors=True)
    pipelines.run(systems[name](), workdir)
    assert (workdir / "report.html").read_text() == before
    assert (workdir / "results.json").read_bytes() == results


def test_a_pipelines_folder_is_no_training_runs(finished, tmp_path):
    workdir = finished("parallel_edits", edits(), tmp_path)
    for attempt in (
        lambda: evaluate.evaluate_run(workdir, None, "last"),
        lambda: api.load(workdir),
        lambda: compare.write_comparison([workdir, tmp_path], tmp_path / "page.html"),
    ):
        with pytest.raises(UserError, match="run of the pipeline 'parallel_edits'"):
            attempt()
    with pytest.raises(UserError, match="pipeline: parallel_edits -> "):
        api.train("rld:digits", workdir)
    # Nor the other way round.
    training = tmp_path / "training"
    training.mkdir()
    saved = configs.resolved(configs.default())
    (training / "config.json").write_text(json.dumps(saved))
    (training / "metrics.jsonl").write_text('{"step": 1, "time": 0}\n')
    with pytest.raises(UserError, match=r"pipeline: \(absent\) -> parallel_edits"):
        pipelines.run(edits(), training)


def test_a_finished_run_is_shown_while_another_process_holds_it(finished, tmp_path):
    workdir = finished("parallel_edits", edits(), tmp_path)
    with locked(workdir):
        assert pipelines.run(edits(), workdir) == api.results(workdir)
