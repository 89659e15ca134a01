import pytest

from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.training import choice
from jaxkd.training.choice import Source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("runs/a", Source("runs/a")),
        ("runs/a:student=kd", Source("runs/a", "kd")),
        ("C:/a b:seed=3,use=best", Source("C:/a b", None, 3, "best")),
        (":student=kd+crd,seed=0", Source("", "kd+crd", 0)),
        ("runs/odd:name", Source("runs/odd:name")),
        ("", Source("")),
    ],
)
def test_which_network_init_from_names(text, source):
    assert choice.parse(text) == source


@pytest.mark.parametrize("text", ["a:seed=one", "a:use=first", "a:seed=-1"])
def test_what_init_from_cannot_mean(text):
    with pytest.raises(UserError, match="seed=NUMBER"):
        choice.parse(text)


def study(*names, seeds=(4, 2)):
    config = configs.default()
    config.students = configs.students({name: {} for name in names})
    config.seeds = seeds
    return config


def test_one_student_needs_no_name():
    assert choice.choose(study(), "run") == ("supervised", 4)
    assert choice.choose(study("kd"), "run", seed=2) == ("kd", 2)
    assert choice.choose(study("a", "b"), "run", "b") == ("b", 4)


def test_a_study_needs_one():
    with pytest.raises(UserError, match=r"run holds 2 students: a, b.*init_from"):
        choice.choose(study("a", "b"), "run")


@pytest.mark.parametrize(("student", "seed"), [("c", None), ("a", 3), ("c", 4)])
def test_what_is_not_there(student, seed):
    with pytest.raises(UserError, match=r"Students: a, b; seeds: 4, 2"):
        choice.choose(study("a", "b"), "run", student, seed)


def test_parameters_that_are_neither_last_nor_best():
    with pytest.raises(UserError, match=r"use is 'bst', expected one of last, best"):
        choice.member_of(study(), "run", Source("", use="bst"))


def test_only_ambiguous_choices_are_printed(capsys):
    choice.announce(study(seeds=(1,)), "run", "supervised", 1, "last")
    assert not capsys.readouterr().err
    choice.announce(study("a", "b"), "run", "b", 4, "best")
    said = capsys.readouterr().err
    assert said == "run: student b, seed 4 (of 4, 2), best parameters\n"
