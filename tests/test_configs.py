"""Every configuration that is documented is built and traced, on fake data."""

import importlib.util
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from jaxkd import pipelines
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.datasets import cifar, folder, glyph100
from jaxkd.recipes import classification
from jaxkd.training import build, program, reads
from tests import (
    clips_blank,
    ct_blank,
    face_forgery_blank,
    forgery_blank,
    handwriting_blank,
    recognition_blank,
    restoration_blank,
)

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load_file(name):
    spec = importlib.util.spec_from_file_location(
        f"{name}_config", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {name: load_file(name) for name in FILES}


def documented(name):
    """The arguments that a file's docstring names."""
    text = MODULES[name].__doc__
    found = re.findall(rf"configs/{name}\.py(?::([^\s)]+))?", text)
    return list(dict.fromkeys(found))


VARIANTS = [(name, arg) for name in FILES for arg in documented(name)]
TRAINED = [each for each in VARIANTS if "pipeline" not in MODULES[each[0]].get_config()]
# Traced in seconds; the others belong to the slow tests.
QUICK = ("rld",)


def test_the_documentation_is_read_right():
    assert ("rld", "") in VARIANTS
    assert ("rld", "cifar100,resnet32x4,resnet8x4") in VARIANTS
    assert ("kd_table", "") in VARIANTS
    assert len(VARIANTS) >= 8
    assert len(RECIPES) == 18


def recipes_page():
    """Argument -> beta and learning rate, from the tables of docs/recipes.md."""
    text = (FOLDER.parent / "docs" / "recipes.md").read_text()
    cifar100 = re.findall(r"`(cifar100,\w+,\w+)` \| (\S+) \| (\S+) \|", text)
    imagenet = re.findall(r"`(imagenet,\w+,\w+)` \| (\S+) \|", text)
    found = {argument: (float(beta), float(lr)) for argument, beta, lr in cifar100}
    return found | {argument: (float(beta), 0.2) for argument, beta in imagenet}


RECIPES = recipes_page()


@pytest.mark.parametrize("arg", RECIPES)
def test_the_recipes_page_says_what_is_trained(arg):
    config = MODULES["rld"].get_config(arg)
    beta, lr = RECIPES[arg]
    for name in ("dkd", "rld"):
        assert config.students[name].loss.beta == beta
    assert config.optim.lr == lr
    assert "optim" not in config.students.kd
    assert set(classification.BETA) | set(classification.IMAGENET_BETA) == {
        tuple(each.split(",")[1:]) for each in RECIPES
    }


class Unread:
    """Examples of which only the number matters."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def blank(count, *shape):
    images = np.broadcast_to(np.uint8(0), (count, *shape))
    return {"image": images, "label": np.broadcast_to(np.int32(0), (count,))}


@pytest.fixture
def no_data(monkeypatch):
    """Replaces reading and drawing; options are still checked by the real code."""

    def draw(size, count, *_):
        return blank(count, size, size, 3)

    def read(root, classes, coarse=False):
        train, test = (ArraySource(blank(n, 32, 32, 3)) for n in cifar.COUNTS)
        return train, test, tuple(map(str, range(classes)))

    recognition_blank.replace(monkeypatch)
    clips_blank.replace(monkeypatch)
    ct_blank.replace(monkeypatch)
    forgery_blank.replace(monkeypatch)
    handwriting_blank.replace(monkeypatch)
    restoration_blank.replace(monkeypatch)
    face_forgery_blank.replace(monkeypatch)
    names = [f"{i:04}" for i in range(1000)]
    monkeypatch.setattr(glyph100, "_draw", draw)
    monkeypatch.setattr(cifar, "read", read)
    splits = Path("train"), Path("val")
    monkeypatch.setattr(folder, "_splits", lambda top, test_split: splits)
    monkeypatch.setattr(folder, "_class_folders", lambda split: names)
    monkeypatch.setattr(folder, "_list_images", lambda *_: Unread(1_281_167))


def stages(config):
    """The run and all that it needs, as they would be started by hand."""
    for need in config.needs.values():
        yield from stages(configs.standalone(need))
    yield config


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        *(
            each if each[0] in QUICK else pytest.param(*each, marks=pytest.mark.slow)
            for each in TRAINED
        ),
        pytest.param(
            "kd_table", "cifar100,ResNet50,MobileNetV2", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.usefixtures("no_data")
def test_every_variant_builds_and_traces(name, arg):
    config = MODULES[name].get_config(arg)
    if config.data.get("root") == "":
        config.data.root = "photographs"  # which the command line gives
    for stage in stages(config):
        configs.check(stage)
        run = build.build(stage)
        assert run.steps > 1
    # The run itself traces its teacher too.
    reads.check(run)
    program.check_losses(run)
    assert config.reference in ("", *config.students)


@pytest.mark.parametrize(
    ("name", "arg"), [each for each in VARIANTS if each not in TRAINED]
)
def test_every_pipeline_is_checked_and_locked(name, arg):
    config = MODULES[name].get_config(arg)
    if "FILE" in arg:
        with pytest.raises(UserError, match="FILE"):
            pipelines.check(config)
    else:
        pipelines.check(config)
    with pytest.raises((AttributeError, KeyError)):
        config.learning_rat = 0.5


@pytest.mark.parametrize(("name", "arg"), TRAINED)
def test_every_variant_is_locked(name, arg):
    for stage in stages(MODULES[name].get_config(arg)):
        for place in (stage, stage.optim, stage.mesh):
            with pytest.raises((AttributeError, KeyError)):
                place.learning_rat = 0.5


@pytest.mark.parametrize(("name", "arg"), TRAINED)
def test_a_variant_is_read_back_from_json(name, arg):
    config = MODULES[name].get_config(arg)
    again = configs.from_json(configs.resolved(config))
    assert configs.difference(configs.resolved(config), configs.resolved(again)) == []
    assert list(again.students) == list(config.students)


@pytest.mark.parametrize("name", FILES)
def test_the_documentation_gives_the_command(name):
    text = MODULES[name].__doc__
    assert f"python -m jaxkd.main --config=configs/{name}.py" in text


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_variant_lists_those_that_there_are(name):
    with pytest.raises(UserError, match="no_such_variant") as error:
        MODULES[name].get_config("no_such_variant")
    for variant in {arg.split(",")[0] for file, arg in VARIANTS if file == name}:
        assert (variant or "''") in str(error.value)


def test_calls_share_nothing():
    one, other = (MODULES["rld"].get_config() for _ in range(2))
    one.students.kd.optim.lr = 99.0
    one.model.stem = 99
    assert other.students.kd.optim.lr != 99.0 and other.model.stem != 99


PAIRS = {  # beta of DKD, as its authors' CIFAR-100 recipes have it
    "resnet32x4,resnet8x4": 8.0,
    "resnet56,resnet20": 2.0,
    "resnet110,resnet32": 2.0,
    "resnet110,resnet20": 2.0,
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.usefixtures("no_data")
def test_the_cifar100_recipe(pair):
    """Batch 64, 240 epochs, 0.05 divided by ten after 150, 180 and 210 of them."""
    config = MODULES["rld"].get_config(f"cifar100,{pair}")
    for stage, model in zip(stages(config), pair.split(","), strict=True):
        assert stage.model.name == model
        run = build.build(stage)
        assert run.steps == 187_500 and stage.batch_size == 64
        for student in run.students:
            rates = [
                float(
                    student.optimizers["main"].schedule(round((epoch - 0.5) * 781.25))
                )
                for epoch in (1, 150, 151, 180, 181, 210, 211, 240)
            ]
            halves = (0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5)
            np.testing.assert_allclose(rates, halves, rtol=1e-5)
            assert student.optimizers["main"].weight_decay == 5e-4
        assert (stage.optim.momentum, stage.optim.nesterov) == (0.9, False)
        assert dict(stage.view) == {"name": "crop_flip"}
    for name in ("dkd", "rld"):
        assert config.students[name].loss.beta == PAIRS[pair]
    assert {"ce", "kd", "dkd", "rld", "la", "rc", "lr"} == set(config.students)


@pytest.mark.usefixtures("no_data")
def test_the_imagenet_recipe():
    """Batch 512, 100 epochs, 0.2 divided by ten after 30, 60 and 90 of them."""
    config = MODULES["rld"].get_config("imagenet")
    run = build.build(config)
    per_epoch = 1_281_167 / 512
    assert run.steps == round(100 * per_epoch)
    rates = [
        float(
            run.students[0]
            .optimizers["main"]
            .schedule(round((epoch - 0.5) * per_epoch))
        )
        for epoch in (1, 30, 31, 60, 61, 90, 91, 100)
    ]
    pairs = itertools.chain.from_iterable((0.2 * 0.1**n,) * 2 for n in range(4))
    np.testing.assert_allclose(rates, list(pairs), rtol=1e-5)
    assert {student.optimizers["main"].weight_decay for student in run.students} == {
        1e-4
    }
    assert run.dataset.info.image_shape == (224, 224, 3)


def test_points_of_the_curve_differ_in_the_teacher_alone():
    points = {n: MODULES["rld"].get_config(f"curve,{n}") for n in (0, 4, 8, 12)}
    flat = [configs.resolved(config) for config in points.values()]
    for one in flat[1:]:
        differing = set(configs.changes(flat[0], one)) - {"name"}
        assert all(key.startswith("needs.teacher.data.") for key in differing)
    for n, config in points.items():
        options = configs.resolved(config.needs.teacher.data)
        assert options.pop("name") == "glyph100"
        dataset = glyph100.load(**options | {"train": 200, "test": 100})
        labels = np.array([dataset.train(0)[i]["label"] for i in range(200)])
        assert (labels != np.arange(200) % 100).sum() == 2 * n
    last, before = points[12], MODULES["rld"].get_config("wrong_teacher")
    for name in set(last.students) - {"ce"}:
        assert last.students[name] == before.students[name]
    with pytest.raises(UserError, match="wrong classes"):
        MODULES["rld"].get_config("curve,5")


def test_students_of_a_laptop_study_differ_in_what_their_names_say():
    students = MODULES["rld"].get_config().students
    assert {name: row.method for name, row in students.items()} == {
        "ce": "supervised",
        "ce_double": "supervised",
        "kd": "kd",
        "dkd": "dkd",
        "rld": "rld",
        "la": "la",
        "rc": "rc",
        "lr": "lr",
    }
    config = MODULES["rld"].get_config()
    assert students.ce_double.duration == 2 * config.duration
