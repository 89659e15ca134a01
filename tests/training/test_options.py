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
            "method 'kd': temperature is 0, expected a number > 0",
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
