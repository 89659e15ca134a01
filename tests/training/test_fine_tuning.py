"""``config.init_from``: students that start from the network of another run."""

import numpy as np
import pytest
from flax import traverse_util

from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.train import train
from jaxkd.training import build, fine_tuning, preprocessing
from tests.conftest import squares_config, write_squares

HEAD = ("params", "fc")


@pytest.fixture(scope="module")
def make(finished_run, tmp_path_factory):
    """Makes a configuration whose classes have given names."""
    path = write_squares(tmp_path_factory.mktemp("tuning") / "new.npz", seed=9)

    def make(*names):
        config = squares_config(path)
        config.init_from = f"{finished_run[0]}:student=zebra"
        config.data.class_names, config.duration = names, 1
        config.optim.lr = 0.0
        return config

    return make


def flat(folder, student=None, seed=None):
    member = checkpoint.load_member(folder / "checkpoints", "last", student, seed)
    return traverse_util.flatten_dict(member)


def trained(make, finished_run, folder, *names):
    """Trains a step without learning rate; returns old and new parameters."""
    results = train(make(*names), folder)
    old, new = flat(finished_run[0], "zebra", 3), flat(folder)
    for path in old:
        if path[0] == "params" and path[:2] != HEAD:
            np.testing.assert_array_equal(old[path], new[path], err_msg=str(path))
    return results, old, new


def test_new_classes_get_a_new_head(make, finished_run, tmp_path, capsys):
    results, old, new = trained(make, finished_run, tmp_path, "a", "b", "c", "d")
    kernel = (*HEAD, "kernel")
    assert not np.array_equal(old[kernel], new[kernel])
    said = capsys.readouterr().err
    assert "head (fc/bias, fc/kernel) is initialised anew" in said
    assert f"{finished_run[0]}: student zebra, seed 3 (of 3, 1)" in said
    assert results["init_from"]["student"] == "zebra"
    assert results["init_from"]["initialised_anew"] == {
        "supervised": ["params/fc/bias", "params/fc/kernel"]
    }
    # Images are normalised as the pretrained network expects; so is its record.
    there, here = (preprocessing.read(one) for one in (finished_run[0], tmp_path))
    assert (here.mean, here.std) == (there.mean, there.std)


@pytest.mark.slow
def test_the_same_classes_keep_their_columns(make, finished_run, tmp_path):
    _, old, new = trained(make, finished_run, tmp_path, "se", "nw", "sw", "ne")
    for name, axis in (("kernel", 1), ("bias", 0)):
        path = (*HEAD, name)
        expected = np.take(old[path], [3, 0, 2, 1], axis=axis)
        np.testing.assert_array_equal(new[path], expected)


def test_classes_without_names_keep_a_head_of_as_many():
    """And say so; of another number they have a new one."""
    shape = (6, 6, 1), (0.5,), (0.2,)
    trained = Info("there", 3, *shape, tuple("012"), numbered=True)
    other = trained._replace(name="here")
    fewer = Info("here", 2, *shape, tuple("01"), numbered=True)
    meant = fewer._replace(numbered=False)
    found = [fine_tuning._positions(one, trained) for one in (other, fewer, meant)]
    assert found == [(), None, (0, 1)]
    config = configs.default()
    for info, said in ((other, True), (trained, False), (meant, False)):
        line = fine_tuning.report(fine_tuning.Plan(), config, trained, info)
        assert (
            "the head is kept" in line and ("joined by their numbers" in line) == said
        )


def test_what_does_not_fit_is_refused(make, finished_run):
    config = make("a", "b", "c", "d")
    config.students = configs.students(
        {"fine": {}, "wide": {"model": dict(config.model) | {"widths": (6,)}}}
    )
    with pytest.raises(
        UserError,
        match=r"(?s)'wide' cannot.*network is resnet8 .*another model",
    ):
        build.build(config)
    config = make("a", "b", "c", "d")
    config.init_from = str(finished_run[0])
    with pytest.raises(UserError, match="3 students: zebra, ant, mole"):
        build.build(config)
