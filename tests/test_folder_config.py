"""Tests configs/folder.py on a folder of images: the top's keys reach the needs."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxkd import train
from jaxkd.core import config_file
from jaxkd.core.overrides import Override
from jaxkd.training import build, overrides, program

SMALL = {
    "data.size": "16",
    "teacher": "resnet14",
    "student": "resnet8",
    "batch_size": "8",
    "seeds": "0,1",
}
TINY = {"stem": 3, "widths": (3, 3, 4)}
CLASSES = ("dark", "grey", "light")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """36 images of three classes, of mixed sizes and modes."""
    top = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(36):
        name, split = CLASSES[index % 3], ("train", "train", "val")[index // 3 % 3]
        side = int(rng.integers(20, 40))
        pixels = rng.integers(0, 60, (side, side, 3), np.uint8) + 90 * (index % 3)
        image = Image.fromarray(pixels.astype(np.uint8))
        (top / split / name).mkdir(parents=True, exist_ok=True)
        mode = ("RGB", "L", "P", "RGB")[index % 4]
        image.convert(mode).save(top / split / name / f"{index}.png")
    return top


def _config(root, variant="", **more):
    config = config_file.load(f"folder:{variant}" if variant else "folder")
    given = SMALL | {"data.root": str(root)} | more
    overrides.apply(config, [Override(*pair) for pair in given.items()])
    return config


def test_the_teacher_reads_the_same_images(root):
    config = _config(root)
    need = config.needs.teacher
    assert (need.data.root, need.data.size) == (str(root), 16)
    assert (need.model.name, config.model.name) == ("resnet14", "resnet8")
    grey = _config(root, **{"data.channels": "1"})
    assert grey.needs.teacher.data.channels == grey.data.channels == 1
    run = build.build(config)
    assert run.dataset.info.class_names == CLASSES
    program.check_losses(run)  # CRD's too, which reads files


def test_two_teachers_are_one(root):
    run = build.build(_config(root, "two_teachers", second="resnet8"))
    assert {name for name, _ in run.spec.ensemble.weights} == {"first", "second"}
    assert run.config.needs.second.model.name == "resnet8"
    program.check_losses(run)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "two_teachers"])
def test_the_run(root, tmp_path, variant):
    units = {"duration": "2", "second": "resnet8"} if variant else {"duration": "2"}
    config = _config(root, variant, **units)
    config.allow_weak_teacher = True  # They have hardly been trained.
    config.students.rld.loss.warmup = 1.0
    for need in config.needs.values():
        need.duration, need.batch_size = 2.0, 8
    for each in (config, *config.needs.values()):
        with each.unlocked():
            each.model.update(TINY)
    train.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["students"]) == set(config.students)
    for student in results["students"].values():
        assert len(student["last"]["top1"]) == 2
