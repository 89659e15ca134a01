"""Preprocessing, classes and figures, from the command line to the last number.

A network learns four levels of brightness. It is then used on images of the two bright
ones alone, whose own mean and standard deviation are others, and whose labels are
numbered the other way round: by ``eval`` on a file and on folders, by ``predict``, as a
needed teacher, exported to torch, and converted back from there.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxkd.core import checkpoint, integrity
from jaxkd.training import preprocessing

pytestmark = pytest.mark.slow

LEVELS = {"night": 20, "dusk": 90, "day": 160, "noon": 230}
BRIGHT = ("noon", "day")

CONFIG = """
from ml_collections import ConfigDict
from jaxkd.core import config as configs

def levels():
    config = configs.default()
    config.name = "levels"
    config.model = ConfigDict(
        {{"name": "resnet8", "stem": 3, "widths": (4,), "strides": (2,)}}
    )
    config.data = ConfigDict(
        {{"name": "npz", "path": {all!r},
          "class_names": ("night", "dusk", "day", "noon")}}
    )
    config.batch_size, config.eval_batch_size = 16, 40
    config.unit, config.duration = "steps", 80
    config.eval_every = config.checkpoint_every = 80
    return config

def get_config(arg=""):
    config = levels()
    if arg == "all":
        return config
    if arg == "folder":
        config.data = ConfigDict({{"name": "folder", "root": {folder!r}, "size": 8}})
        return config
    need = configs.needed(config)
    config.name = "bright"
    config.data = ConfigDict(
        {{"name": "npz", "path": {bright!r}, "class_names": ("noon", "day")}}
    )
    if arg == "bright":
        return config
    config.needs = ConfigDict({{"teacher": need}})
    config.students = configs.students(
        {{"ce": {{"method": "supervised"}}, "kd": {{"method": "kd"}}}}
    )
    return config
"""


def images(names, count, seed):
    """Returns ``count`` images in turn of each level, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(names)
    levels = np.array([LEVELS[name] for name in names])[labels]
    noise = rng.integers(-20, 21, (count, 8, 8, 3))
    return np.clip(levels[:, None, None, None] + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a configuration and the trained run ``runs/all``."""
    top = tmp_path_factory.mktemp("travelling")
    for name, names in (("all", tuple(LEVELS)), ("bright", BRIGHT)):
        arrays = {}
        for seed, (split, count) in enumerate((("train", 96), ("test", 40))):
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = images(
                names, count, seed
            )
        np.savez(top / f"{name}.npz", **arrays)
    with np.load(top / "bright.npz") as file:
        for split, folder in (("train", "train"), ("test", "val")):
            pairs = zip(file[f"{split}_images"], file[f"{split}_labels"], strict=True)
            for number, (image, label) in enumerate(pairs):
                path = top / "folder" / folder / BRIGHT[label] / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    paths = {n: str(top / f"{n}.npz") for n in ("all", "bright")}
    text = CONFIG.format(folder=str(top / "folder"), **paths)
    (top / "levels.py").write_text(text)
    call(top, "--config=levels.py:all", "--workdir=runs/all")
    return top


def call(top, *arguments, module="jaxkd.main", fails=False):
    """Runs a command of the library in a folder; returns what it wrote."""
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(top / "compiled")
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=top,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == (2 if fails else 0), done.stderr
    return done.stdout + done.stderr


def results(top, run):
    return json.loads((top / "runs" / run / "results.json").read_text())


def evaluated(top):
    found = json.loads((top / "runs/all/eval.json").read_text())
    return found["students"]["supervised"]["top1"][0]


def test_the_network_learnt_its_own_data(place):
    assert results(place, "all")["students"]["supervised"]["last"]["top1"][0] > 0.95


def test_evaluation_and_prediction_agree_on_other_data(place):
    call(place, "--mode=eval", "--workdir=runs/all", "--config=levels.py:bright")
    on_arrays = evaluated(place)
    call(place, "--mode=eval", "--workdir=runs/all", "--config=levels.py:folder")
    on_files = evaluated(place)
    call(
        place,
        *("--mode=predict", "--workdir=runs/all", "--inputs=folder/val"),
        *("--output=found.csv", "--topk=1"),
    )
    with (place / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = [Path(row["file"]).parent.name == row["class"] for row in rows]
    assert len(rows) == 40 and np.mean(right) > 0.95
    assert on_arrays == on_files == pytest.approx(np.mean(right))


def test_a_needed_teacher_sees_what_it_was_trained_on(place):
    text = call(place, "--config=levels.py:study", "--workdir=runs/study")
    teacher = results(place, "study")["frozen"]["teacher"]
    assert teacher["classes"] == [3, 2] and teacher["measured_here"]
    # Of these images, as their own run normalises them, through the network alone.
    folder = place / "runs/study/teacher"
    trained = preprocessing.read(folder)
    with np.load(place / "all.npz") as file:
        train = file["train_images"] / 255
    np.testing.assert_allclose(trained.mean, train.mean((0, 1, 2)))
    assert teacher["scale"] == pytest.approx(
        np.array(preprocessing.read(place / "runs/study").std) / train.std((0, 1, 2)),
        rel=1e-4,
    )
    assert teacher["top1"] > 0.95
    assert "sees images normalised as in its own run" in text
    assert "teacher: measured on this run's test examples" in text
    last = results(place, "study")["students"]
    assert last["kd"]["last"]["top1"][0] > 0.95 and last["ce"]["last"]["top1"][0] > 0.95


@pytest.mark.torch
def test_a_student_in_torch_and_back_as_a_teacher(place):
    torch = pytest.importorskip("torch")
    zoo = pytest.importorskip("tests.torch_zoo")
    call(
        place,
        *("--mode=export", "--workdir=runs/all"),
        *("--format=torch", "--output=student.pth"),
    )
    told = json.loads((place / "student.pth.json").read_text())
    prepared = told["preprocessing"]
    assert prepared["formula"] == "(image / 255 - mean) / std"
    assert prepared["channels"] == "RGB" and told["class_names"] == list(LEVELS)
    with np.load(place / "bright.npz") as file:
        pixels, labels = file["test_images"], file["test_labels"]
    inputs = (pixels / 255 - np.array(prepared["mean"])) / np.array(prepared["std"])
    network = zoo.ResNet(len(LEVELS), 1, 3, (4,), strides=(2,)).eval()
    network.load_state_dict(
        torch.load(place / "student.pth", weights_only=True)["model"]
    )
    with torch.no_grad():
        channels_first = inputs.transpose(0, 3, 1, 2).astype(np.float32)
        logits = network(torch.from_numpy(channels_first))[0].numpy()
    from jaxkd import api

    ours = api.load(place / "runs/all").logits(pixels)
    np.testing.assert_allclose(logits, ours, atol=1e-4)

    (place / "names.txt").write_text("\n".join(told["class_names"]))
    options = json.dumps(told["options"])
    call(
        place,
        *("from-torch", "student.pth", "runs/converted", "--model=resnet8"),
        *("--classes=names.txt", f"--options={options}"),
        "--mean=" + ",".join(map(repr, prepared["mean"])),
        "--std=" + ",".join(map(repr, prepared["std"])),
        module="jaxkd.convert",
    )
    call(
        place,
        *("--config=levels.py:study", "--workdir=runs/taught"),
        "--config.needs.teacher.init_from=runs/converted",
    )
    teacher = results(place, "taught")["frozen"]["teacher"]
    names = np.array(told["class_names"])
    cut = logits[:, [list(names).index(name) for name in BRIGHT]]
    assert teacher["top1"] == pytest.approx(np.mean(cut.argmax(1) == labels))
    assert teacher["hash"] == integrity.content_hash(
        checkpoint.load_member(place / "runs/all/checkpoints", "last")
    )

    # Without its names, four outputs are not two classes; nothing is guessed.
    call(
        place,
        *("from-torch", "student.pth", "runs/nameless", "--model=resnet8"),
        f"--options={options}",
        module="jaxkd.convert",
    )
    refused = call(
        place,
        *("--config=levels.py:study", "--workdir=runs/refused"),
        "--config.needs.teacher.init_from=runs/nameless",
        fails=True,
    )
    assert "4 classes apart, whose names are not known" in refused
