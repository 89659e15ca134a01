"""Overrides reach every option of what a configuration chooses, listed or not."""

from pathlib import Path

import pytest

from jaxkd.core import config as configs
from jaxkd.core import config_file
from jaxkd.core.errors import UserError
from jaxkd.core.overrides import Override, split
from jaxkd.training import options, overrides
from jaxkd.training.components import student_config

ROOT = Path(__file__).parent.parent.parent


def rld(variant="digits"):
    return config_file.load(f"{ROOT}/configs/rld.py:{variant}")


def changed(*given, config=None):
    config = rld() if config is None else config
    _, found = split([f"--config.{one}" for one in given])
    return config, overrides.apply(config, found)


def test_the_command_line_is_split():
    rest, found = split(
        [
            *("main", "--config=rld", "--config.a=1=2", "--config.b", "-1"),
            *("--config.c", "--noconfig.d", "--inputs", "x", "--", "--config.e=1"),
        ]
    )
    assert rest == ["main", "--config=rld", "--inputs", "x", "--", "--config.e=1"]
    assert found == [
        Override("a", "1=2"),
        Override("b", "-1"),
        Override("c", "true"),
        Override("d", "false"),
    ]


@pytest.mark.parametrize(
    ("given", "path", "value"),
    [
        ("batch_size=32", "batch_size", 32),
        ("duration=3", "duration", 3.0),
        ("seeds=7", "seeds", (7,)),
        ("seeds=(7,8)", "seeds", (7, 8)),
        ("optim.nesterov=false", "optim.nesterov", False),
        ("optim.milestones=1,2.5", "optim.milestones", (1, 2.5)),
        ("targets.cache", "targets.cache", True),
        ("data.seed=3", "data.seed", 3),
        ("view.flip=true", "view.flip", True),
        ("model.photographs=1", "model.photographs", True),
        ("model.widths=2,4,8", "model.widths", (2, 4, 8)),
        ("optimizers.main.lr=2", "optimizers.main.lr", 2.0),
        ("needs.teacher.duration=1", "needs.teacher.duration", 1.0),
        ("needs.teacher.model.stem=8", "needs.teacher.model.stem", 8),
        ("needs.teacher.init_from=runs/7", "needs.teacher.init_from", "runs/7"),
        ("students.kd.loss.temperature=2", "students.kd.loss.temperature", 2.0),
        ("students.ce.optim.lr=1e-3", "students.ce.optim.lr", 1e-3),
        ("students.kd.duration=2", "students.kd.duration", 2.0),
    ],
)
def test_every_option_can_be_overridden(given, path, value):
    found, said = changed(given)
    for part in path.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)
    assert not said


def test_options_of_what_is_named_anew():
    config, said = changed(
        "data.root=1999", "data.size=32", "data.name=folder", "model.name=MobileNetV1"
    )
    assert config.data.to_dict() == {"name": "folder", "root": "1999", "size": 32}
    assert config.model.to_dict() == {"name": "MobileNetV1"}
    assert said == ["MobileNetV1 has no stem, strides, widths: left out of its model."]


def test_a_student_keeps_the_rest_of_the_networks_options():
    config, _ = changed("students.kd.model.stem=2", "students.kd.method=rkd")
    merged = student_config(config, "kd")
    assert merged.model.to_dict() == {**config.model.to_dict(), "stem": 2}
    assert config.model.stem == 4
    assert "kd_weight" not in merged.loss  # which RKD does not have


def test_parts_of_a_sum_of_methods():
    config, _ = changed("students.kd.method=kd+rkd", "students.kd.loss.rkd.weight=2")
    assert config.students.kd.loss.rkd.weight == 2


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("bacth_size=3", "key of config is 'bacth_size'.*mean 'batch_size'"),
        ("optim.LR=3", "config.optim is 'LR'.*mean 'lr'"),
        ("students.kd.loss.temprature=2", "mean 'temperature'"),
        ("students.dk.loss.beta=2", "config.students is 'dk'.*ce, kd, dkd, rld"),
        ("students.kd.lr=2", "the key is 'lr'.*optim"),
        ("data.root=x", "config.data is 'root'.*seed"),
        ("needs.teacher.optim.rate=2", "config.needs.teacher.optim is 'rate'"),
        ("model.name=resnet9", "resnet9.*resnet8"),
        ("batch_size=many", "--config.batch_size is 'many', expected a whole number"),
        ("optim.lr=fast", "expected a number"),
        ("optim.nesterov=perhaps", "true or false"),
        ("duration.x=1", "duration has no keys of its own"),
    ],
)
def test_mistakes_name_what_there_is(given, named):
    with pytest.raises(UserError, match=named):
        changed(given)


def test_pipelines_have_the_keys_of_their_default():
    config, _ = changed("gits.grid=31", "nfe=5", config=config_file.load("gits"))
    assert config.gits.grid == 31 and config.nfe == (5,)
    with pytest.raises(UserError, match="mean 'grid'"):
        changed("gits.gird=31", config=config)


def test_rows_are_chosen_and_added():
    config = rld()
    overrides.add_student(config, "kd2:kd")
    changed("students.kd2.loss.temperature=2", config=config)
    assert overrides.choose_students(config, "kd2,kd") == []
    assert list(config.students) == ["kd", "kd2"]
    assert "temperature" not in config.students.kd.loss
    assert (
        "leaves out the reference 'kd'" in overrides.choose_students(config, "kd2")[0]
    )
    configs.check(config)
    with pytest.raises(UserError, match="mean 'kd2'"):
        overrides.choose_students(config, "kd3")
    with pytest.raises(UserError, match="There are: kd2"):
        overrides.add_student(config, "kd2")


def test_types_are_those_of_the_signature():
    def load(root: str, size: int = 3, ratio: float | None = None, pair=(1, 2)):
        """Nothing is loaded."""

    found = options.of_function(load)
    assert found["root"].types == {str}
    assert found["ratio"].types == {float, type(None)}
    assert found["pair"].types == {tuple}
    assert overrides.convert("3", found["ratio"].types, "x") == 3.0
    assert overrides.convert("none", found["ratio"].types, "x") is None
    assert overrides.convert("12", found["root"].types, "x") == "12"
    assert overrides.convert("a,b", frozenset({tuple}), "x") == ("a", "b")


def test_needed_runs_follow_to_the_same_data():
    config = config_file.load(f"{ROOT}/configs/ssl_hv.py:quick")
    config, notes = changed("data.root=words", "data.split=seen", config=config)
    assert [config.needs[n].data.root for n in config.needs] == ["words"] * 3
    assert {need.data.split for need in config.needs.values()} == {"seen"}
    assert config.needs.all_writers.data.labelled == 1.0  # its own options stay
    assert len(notes) == 2 and "needs.vicreg" in notes[0] and "'words'" in notes[0]


def test_needed_runs_keep_data_of_their_own():
    config = config_file.load(f"{ROOT}/configs/ssl_hv.py:quick")
    config.needs.all_writers.data.root = "others"
    given = ("needs.vae.data.root=unlabelled", "data.root=words")
    config, notes = changed(*given, config=config)
    assert config.needs.vae.data.root == "unlabelled"
    assert config.needs.all_writers.data.root == "others"
    assert config.needs.vicreg.data.root == "words"
    (note,) = notes
    assert "needs.vicreg too" in note and "vae" not in note


def test_a_teacher_that_is_taken_keeps_its_data():
    config = config_file.load(f"{ROOT}/configs/mkd.py:div2k")
    given = ("data.root=photos", "needs.teacher.init_from=runs/mkd/teacher")
    config, notes = changed(*given, config=config)
    assert config.needs.teacher.data.root == "data/DIV2K" and not notes


def test_references_already_follow():
    config = config_file.load(f"{ROOT}/configs/folder.py")
    config, notes = changed("data.root=photos", config=config)
    assert config.needs.teacher.data.root == "photos" and not notes
