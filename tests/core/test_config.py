import json

import pytest
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core import config_check
from jaxkd.core.errors import UserError


def changed(**values):
    config = configs.default()
    with config.unlocked(), config.ignore_type():
        for path, value in values.items():
            *folders, last = path.split("__")
            place = config
            for folder in folders:
                place = place[folder]
            place[last] = value
    return config


def through_json(config):
    return json.loads(json.dumps(configs.resolved(config)))


def test_default_is_valid_and_locked():
    config = configs.default()
    configs.check(config)
    with pytest.raises((AttributeError, KeyError)):
        config.batchsize = 3
    with pytest.raises((AttributeError, KeyError)):
        config.optim.learning_rate = 3
    with pytest.raises((AttributeError, KeyError)):
        config.mesh.model = 3


def test_two_defaults_share_nothing():
    one = configs.default()
    one.optim.lr = 7.0
    one.students.a = {"method": "kd"}
    assert configs.default().optim.lr != 7.0
    assert not configs.default().students


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"bacth_size": 3}, ("config", "bacth_size", "batch_size")),
        ({"optim__learning_rate": 0.1}, ("config.optim", "learning_rate", "lr")),
        ({"sharding": (("head", "fdsp"),)}, ("config.sharding", "fdsp", "replicate")),
        ({"sharding": (("head", True),)}, ("config.sharding", "True", "replicate")),
        ({"sharding": ("head",)}, ("config.sharding", "head", "(pattern, tactic)")),
        ({"sharding": (("(head", 0),)}, ("config.sharding", "(head", "expression")),
        ({"mesh__model": 2}, ("config.mesh", "model", "fsdp")),
        (
            {"students": ConfigDict({"a": {"losses": {}}})},
            ("config.students.a", "losses", "method"),
        ),
        (
            {"students": ConfigDict({"a": {"seeds": (1,)}})},
            ("config.students.a", "seeds", "duration"),
        ),
        (
            {"students": ConfigDict({"a": {"optim": {"rate": 1.0}}})},
            ("config.students.a.optim", "rate", "lr"),
        ),
    ],
)
def test_unknown_keys_are_named_with_those_that_exist(values, named):
    with pytest.raises(UserError) as error:
        configs.check(changed(**values))
    for word in named:
        assert word in str(error.value)


def test_unknown_key_of_a_needed_run_is_found():
    config = configs.default()
    config.needs = ConfigDict({"teacher": configs.needed(configs.default())})
    with config.needs.teacher.unlocked():
        config.needs.teacher.depth = 3
    with pytest.raises(UserError, match="depth"):
        configs.check(config)


def test_a_needed_run_that_is_a_folder_is_explained():
    config = configs.default()
    config.needs = ConfigDict({"teacher": "runs/teacher"})
    with pytest.raises(UserError, match="needed"):
        configs.check(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unit": "hours"}, "unit is 'hours'.*'epochs', 'steps'"),
        ({"batches": "split"}, "batches is 'split'.*'shared', 'per_seed'"),
        ({"dtype": "float16"}, "dtype is 'float16'.*'float32', 'bfloat16'"),
        ({"study_loop": "scan"}, "study_loop is 'scan'.*'map', 'vmap'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"eval_batch_size": -1}, "eval_batch_size is -1"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"steps_per_call": 0}, "steps_per_call is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"duration": 0.0}, "duration is 0.0"),
        ({"duration": float("nan")}, "duration is nan"),
        ({"eval_every": -1.0}, "eval_every is -1.0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"ema": -0.1}, "ema is -0.1"),
        ({"seeds": ()}, "seeds is"),
        ({"seeds": (1, 2, 1)}, "seeds is .*different"),
        ({"seeds": (-1,)}, "seeds is"),
        ({"seeds": (0.5,)}, "seeds is"),
        ({"batch_size": 100, "accumulate": 3}, "100 does not divide.*3"),
        ({"reference": "kd"}, "reference is 'kd'"),
        ({"optim__lr": -0.1}, "config.optim.lr is -0.1"),
        ({"optim__lr": float("nan")}, "config.optim.lr is nan"),
        ({"optim__momentum": 1.5}, "config.optim.momentum is 1.5, expected .* < 1"),
        ({"optim__beta2": 1.0}, "config.optim.beta2 is 1.0, expected a number .* < 1"),
        ({"optim__weight_decay": "much"}, "config.optim.weight_decay is 'much'"),
        ({"optim__name": "SGD"}, "config.optim.name is 'SGD', expected one of 'sgd'"),
        ({"optim__schedule": "cos"}, "config.optim.schedule is 'cos', .*'cosine'"),
        ({"optim__nesterov": "no"}, "config.optim.nesterov is 'no', .*True or False"),
        ({"optim__milestones": (5, -1)}, r"milestones is \(5, -1\), .*a number >= 0"),
        ({"workers": 0}, "config.workers is 0, expected a whole number >= 1"),
        ({"mesh__data": -2}, "config.mesh.data is -2, expected a whole number >= -1"),
        ({"allow_weak_teacher": "no"}, "allow_weak_teacher is 'no', expected True or"),
        ({"targets__top_k": -1}, "config.targets.top_k is -1"),
        ({"duration": 2e9}, "duration is 2000000000.0, .* <= 1,000,000,000"),
        ({"optim__warmup": -1}, "config.optim.warmup is -1"),
        (
            {"students": ConfigDict({"a": {"optim": {"lr": -1.0}}})},
            "config.students.a.optim.lr is -1.0",
        ),
        (
            {"students": ConfigDict({"a": {"duration": 0.0}})},
            "config.students.a.duration is 0.0",
        ),
        (
            {"students": ConfigDict({"a": {"duration": "long"}})},
            "config.students.a.duration is 'long'",
        ),
        ({"students": ConfigDict({"a": {"optim": 3}})}, "config.students.a.optim"),
        ({"students": ConfigDict({"a": {"method": 3}})}, "config.students.a.method"),
        (
            {"students": ConfigDict({"a": {"optim": {"milestones": 3}}})},
            "config.students.a.optim.milestones is 3",
        ),
        ({"optim__factor": -1.0}, "config.optim.factor is -1.0"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        configs.check(changed(**values))


def test_every_key_is_declared_and_every_default_fits():
    """Of a run, its optimiser, teachers, targets and mesh."""
    config = configs.default()
    free = {"data", "loss", "model", "needs", "optimizers", "students", "view"}
    sections = {"mesh", "optim", "sharding", "targets", "teachers"}
    declared = {*config_check.KEYS, *config_check.TRAINING}
    assert declared == set(config) - free - sections
    for name in ("mesh", "optim", "targets", "teachers"):
        assert set(getattr(config_check, name.upper())) == set(config[name])
    configs.check(config)


def test_reference_may_be_any_student():
    students = configs.students({"a": {}, "b": {}})
    configs.check(changed(students=students, reference="b"))
    with pytest.raises(UserError, match="Students: a, b"):
        configs.check(changed(students=students, reference="c"))


@pytest.mark.parametrize("name", ["a/b", "", " ", "a b/1"])
def test_names_that_would_break_records_are_refused(name):
    # Metrics are recorded as "test_top1/<student>/<seed>".
    with pytest.raises(UserError, match="name"):
        configs.check(changed(students=configs.students({name: {}})))


def test_a_student_may_override_every_allowed_key():
    overrides = {
        "method": "kd",
        "loss": {"temperature": 2.0},
        "model": {"name": "resnet8"},
        "optim": {"lr": 0.5, "name": "adamw"},
        "optimizers": {"generator": {"lr": 0.1}},
        "duration": 3.0,
    }
    assert set(overrides) == set(configs.STUDENT_KEYS)
    configs.check(changed(students=ConfigDict({"a": overrides})))


def test_order_of_students_survives_json():
    names = ["zeta", "alpha", "mid"]
    config = configs.default()
    config.students = configs.students({name: {"method": "kd"} for name in names})
    assert list(config.students) == names
    assert list(through_json(config)["students"]) == names
    with config.unlocked():
        config.name = "copied"
    assert list(configs.standalone(configs.needed(config)).students) == names


def test_needed_and_standalone_are_inverse():
    config = configs.default()
    config.students = configs.students({"b": {"duration": 2.0}, "a": {}})
    config.data = ConfigDict({"name": "npz", "path": "x.npz"})
    before = configs.resolved(config)
    need = configs.needed(config, init_from="runs/there")
    assert need.init_from == "runs/there"
    assert configs.resolved(configs.standalone(need)) == before
    assert configs.resolved(config) == before  # and the original is untouched
    assert config.init_from == ""
    with pytest.raises((AttributeError, KeyError)):
        need.optim.learning_rate = 1.0  # a copy is locked like the original


def test_a_needed_run_that_starts_from_another_is_refused():
    config = configs.default()
    config.init_from = "runs/pretrained"
    with pytest.raises(UserError, match=r"instead of training it.*run by itself"):
        configs.needed(config)


def test_needed_run_is_a_copy():
    config = configs.default()
    need = configs.needed(config)
    config.model.name = "resnet56"
    assert need.model.name == "resnet20"


def test_difference_of_equal_configurations_is_empty():
    a, b = configs.default(), configs.default()
    a.seeds = (1, 2)
    b.seeds = [1, 2]
    assert configs.difference(configs.resolved(a), through_json(b)) == []


def test_difference_names_each_changed_key():
    old, new = configs.default(), configs.default()
    new.optim.lr = 0.3
    new.students = configs.students({"kd": {"method": "kd"}})
    new.model.stem = 2
    lines = configs.difference(configs.resolved(old), configs.resolved(new))
    text = "\n".join(lines)
    assert "optim.lr: 0.1 -> 0.3" in lines
    assert "students.kd.method: (absent) -> kd" in lines
    assert "model.stem: (absent) -> 2" in lines
    assert "batch_size" not in text


@pytest.mark.parametrize("key", configs.RUNTIME_KEYS)
def test_difference_passes_over_runtime_keys(key):
    old, new = configs.default(), configs.default()
    with new.unlocked(), new.ignore_type():
        if key == "mesh":
            new.mesh.data, new.mesh.fsdp = 4, 2
        else:
            new[key] = "vmap" if key == "study_loop" else 99
    assert configs.difference(configs.resolved(old), configs.resolved(new)) == []
    outer_old, outer_new = configs.default(), configs.default()
    outer_old.needs.teacher = configs.needed(old)
    outer_new.needs.teacher = configs.needed(new)
    resolved = configs.resolved(outer_old), configs.resolved(outer_new)
    assert configs.difference(*resolved) == []


def test_difference_sees_students_named_like_runtime_keys():
    old, new = configs.default(), configs.default()
    old.students = configs.students({"keep": {"duration": 1.0}})
    new.students = configs.students({"keep": {"duration": 2.0}})
    assert configs.difference(configs.resolved(old), configs.resolved(new))


def test_difference_sees_another_order_of_students():
    # Members are stacked in this order, so a checkpoint of one order does not fit.
    old, new = configs.default(), configs.default()
    old.students = configs.students({"a": {}, "b": {}})
    new.students = configs.students({"b": {}, "a": {}})
    assert configs.difference(configs.resolved(old), configs.resolved(new))
