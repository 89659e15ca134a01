"""A run that is stopped on some devices goes on with others."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxkd.train import train
from tests.test_train import data_file, final_params, make_config  # noqa: F401

# The process ends, as if it were killed, right after its second checkpoint.
CONFIG_FILE = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests import test_train
from jaxkd.core.checkpoint import Checkpoints

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
    config = test_train.make_config(Path({data!r}), steps=30)
    for each in (config, config.needs.teacher):
        each.eval_every = each.checkpoint_every = 10
        each.mesh.update({{"seed": 1, "data": int(os.environ["JAX_NUM_CPU_DEVICES"])}})
    return config
"""


def go_on(config_file: Path, workdir: Path, devices: int, stop: bool) -> None:
    command = [sys.executable, "-m", "jaxkd.main", f"--config={config_file}"]
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(config_file.parent / "compiled"),
    }
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
    config = make_config(data_file, steps=30)
    for each in (config, config.needs.teacher):
        each.eval_every = each.checkpoint_every = 10
    train(config, tmp_path / "whole")

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
