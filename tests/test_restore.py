"""A run that is stopped on some devices goes on with others."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.train import train
from tests import test_train
from tests.test_train import data_file  # noqa: F401

# The process ends, as if it were killed, right after its second checkpoint.
CONFIG_FILE = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests import test_restore
from jaxkd.core.checkpoint_saving import Checkpoints

saves, save = [], Checkpoints.save
def save_twice(self, step, *rest):
    save(self, step, *rest)
    saves.append(step)
    if len(saves) == 2:
        self.wait()
        os._exit(9)
if "STOP" in os.environ:
    Checkpoints.save = save_twice

def get_config(arg=""):
    config = test_restore.make_config(Path({data!r}))
    for each in (config, config.needs.teacher):
        each.mesh.update({{"seed": 1, "data": int(os.environ["JAX_NUM_CPU_DEVICES"])}})
    return config
"""


def make_config(data: Path) -> ConfigDict:
    """Describes one student of two seeds, and its teacher."""
    config = test_train.make_config(data, steps=30)
    for each in (config, config.needs.teacher):
        each.eval_every = each.checkpoint_every = 10
    config.students = configs.students({"kd": {"method": "kd"}})
    return config


def final_params(workdir: Path) -> dict[str, np.ndarray]:
    """Returns all parameters of the teacher and of both students, by name."""
    trees = {
        f"kd{seed}": checkpoint.load_member(workdir / "checkpoints", "last", "kd", seed)
        for seed in (1, 2)
    }
    trees["teacher"] = checkpoint.load_member(workdir / "teacher/checkpoints", "last")
    flat, _ = jax.tree_util.tree_flatten_with_path(trees)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def go_on(config_file: Path, workdir: Path, devices: int, stop: bool) -> None:
    command = [sys.executable, "-m", "jaxkd.main", f"--config={config_file}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    environment |= {"STOP": "1"} if stop else {}
    done = subprocess.run(
        [*command, f"--workdir={workdir}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert f"cpu devices: {devices};" in done.stderr, done.stderr
    assert done.returncode == (9 if stop else 0), done.stderr


@pytest.mark.slow
def test_eight_devices_then_two_then_one(data_file, tmp_path):  # noqa: F811
    """The first stop comes while the teacher trains, the second in the study."""
    train(make_config(data_file), tmp_path / "whole")

    config_file = tmp_path / "config.py"
    tests = str(Path(__file__).parent.parent)
    config_file.write_text(CONFIG_FILE.format(tests=tests, data=str(data_file)))
    moved = tmp_path / "moved"
    go_on(config_file, moved, devices=8, stop=True)
    assert (moved / "teacher/checkpoints/20").exists()
    go_on(config_file, moved, devices=2, stop=True)
    assert (moved / "teacher/results.json").exists()
    assert (moved / "checkpoints/10").exists()
    go_on(config_file, moved, devices=1, stop=False)

    ours, whole = final_params(moved), final_params(tmp_path / "whole")
    assert ours.keys() == whole.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], whole[name], rtol=1e-3, atol=1e-4)
