"""Options of a configuration, and of the runs it needs, before anything is loaded."""

import pytest

from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.train import train
from jaxkd.training import options, workdir


def config(**changes):
    made = configs.default()
    made.data.update({"name": "npz", "path": "/nowhere.npz"})
    made.model.name, made.view.name, made.method = "small_conv", "plain", "kd"
    with made.unlocked():
        made.update(changes)
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": {"temperature": -4}},
            "method 'kd': temperature is -4, expected a",
        ),
        ({"loss": {"kd_weight": -1.0}}, "method 'kd': kd_weight is -1.0, expected"),
        (
            {"loss": {"standardize": "no"}},
            "standardize is 'no', expected True or",
        ),
        ({"loss": {"temprature": 4}}, r"no option 'temprature', .*mean 'temperature'"),
        ({"method": "kdd"}, r"jaxkd.methods has no 'kdd', expected one of .*'kd'"),
        ({"model": {"widths": "8"}}, "model 'small_conv': widths is '8', expected a"),
        ({"model": {"width": 8}}, r"model 'small_conv' has no option 'width'"),
        (
            {"view": {"name": "crop_flip", "pad": -1}},
            "view 'crop_flip': pad is -1",
        ),
        ({"data": {"classes": "ten"}}, "data set 'npz': classes is 'ten', expected a"),
        (
            {"method": "rld+crd", "loss": {"crd": {"crd_weight": -1}}},
            "method 'crd': crd_weight is -1",
        ),
        (
            {"students": {"a": {}, "b": {"loss": {"temperature": 0}}}},
            "method 'kd': temperature is 0, expected a number >= 1e-06",
        ),
        (
            {"model": {"widths": (8, 0)}},
            "widths is .8, 0., expected a list, each of it",
        ),
        ({"model": {"widths": ()}}, "widths is .., expected a list of one or more"),
        (
            {"model": {"name": "resnet20", "block": "X"}},
            "model 'resnet20': block is 'X', expected a class derived from Module",
        ),
        (
            {"model": {"name": "resnet20", "blocks": 0}},
            "blocks is 0, expected a whole number > 0 or a list",
        ),
        (
            {"model": {"name": "resnet20", "strides": (0, 1, 2)}},
            "strides is .0, 1, 2., expected a list, each of it a whole number > 0",
        ),
        (
            {"method": "mlkd", "loss": {"temperatures": ()}},
            "method 'mlkd': temperatures is .., expected a list of one or more",
        ),
        (
            {
                "view": {"name": "low", "base": {"name": "plain"}, "side": 4}
                | {"levels": (2.0, -2.0)}
            },
            "view 'low': levels is .*, expected the lower one first",
        ),
        (
            {
                "view": {
                    "name": "low",
                    "side": 4,
                    "base": {"name": "recolour", "shft": 1},
                }
            },
            "config.view.base of view 'low': view 'recolour' has no option 'shft'",
        ),
        (
            {"optim": {"warmup": 1.5}},
            "config.optim.warmup is 1.5, but training lasts 1 epochs. Expected a time",
        ),
        (
            {"optim": {"schedule": "step", "milestones": (0.5, 1)}},
            r"config.optim.milestones is \(0.5, 1\), but training lasts 1 epochs",
        ),
        ({"optimizers": {"main": {"warmup": 2}}}, "config.optimizers.main.warmup is 2"),
        ({"loss": {"warmup": 2.0}}, "config.loss.warmup is 2.0, but training lasts 1"),
        (
            {"method": "horkd", "loss": {"fade": (0.5, 1.5)}},
            r"config.loss.fade is \(0.5, 1.5\), but training lasts 1 epochs",
        ),
        (
            {"method": "rld+crd", "loss": {"rld": {"warmup": 5.0}}},
            "config.loss.rld.warmup is 5.0",
        ),
        (
            {"duration": 3, "students": {"a": {"duration": 1, "optim": {"warmup": 2}}}},
            "config.students.a: config.optim.warmup is 2.0, but training lasts 1",
        ),
        (
            {"students": {"a": {"method": "dkd", "loss": {"alpha": "1"}}}},
            "method 'dkd': alpha is '1'",
        ),
    ],
)
def test_refused_before_anything_is_loaded(changes, message, tmp_path):
    """The file of the data is not there, and not missed yet."""
    with pytest.raises(UserError, match=message):
        train(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"nowhere.npz does not exist"):
        train(config(), tmp_path / "run")


def test_times_up_to_the_end_are_none_too_late():
    for changes in (
        {"optim": {"warmup": 1.0}, "loss": {"warmup": 1.0}},
        {"optim": {"schedule": "step", "milestones": (0.5, 0.99)}},
        {"optim": {"schedule": "cosine", "milestones": (2,)}},  # which has no use there
        {"method": "horkd", "loss": {"fade": (0.5, 1.0)}},
    ):
        options.check(config(**changes))
        assert not options.unfinished(config(**changes))


def test_a_default_time_after_the_end_is_told():
    study = config(students={"rld": {"method": "rld"}, "long": {"duration": 30}})
    (line,) = options.unfinished(study)
    assert line.startswith("rld: config.loss.warmup is 20 epochs by default, but")
    study = config(method="rld", duration=20)
    assert not options.unfinished(study)


def test_options_of_needed_runs_are_checked_first():
    teacher = config(method="supervised", loss={"label_smoothing": 2.0})
    study = config()
    with study.unlocked():
        study.needs.teacher = configs.needed(teacher)
    with pytest.raises(UserError, match="'supervised': label_smoothing is 2"):
        options.check(study)


def test_what_a_run_leaves_to_defaults_is_recorded(tmp_path):
    study = config(
        students={
            "kd": {},
            "soft": {"loss": {"temperature": 2}},
            "both": {"method": "rld+crd", "loss": {"crd": {"crd_weight": 0.5}}},
        }
    )
    found = options.resolved(study)
    assert found["data"]["classes"] is None and found["data"]["name"] == "npz"
    students = found["students"]
    assert students["kd"]["loss"]["temperature"] == 4.0
    assert students["soft"]["loss"]["temperature"] == 2
    assert students["both"]["loss"]["crd"]["crd_weight"] == 0.5
    assert students["both"]["loss"]["rld"]["alpha"] == 1.0
    assert students["kd"]["model"]["widths"] == [16, 32, 64, 64]
    workdir.create(tmp_path, study, found)
    saved = workdir.read_json(tmp_path / "config.json")
    assert saved["resolved"] == found
    # It is no key of the configuration, and no difference.
    assert options.resolved(workdir.read_config(tmp_path)) == found
    assert workdir.check_resumable(tmp_path, study) is None
    workdir.check_defaults(tmp_path, found)
    students["kd"]["loss"]["temperature"] = 1.0
    with pytest.raises(UserError, match=r"kd.loss.temperature: 4.0 -> 1.0"):
        workdir.check_defaults(tmp_path, found)
