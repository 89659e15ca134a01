"""Two processes against one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_train import data_file, final_params, make_config  # noqa: F401

from jaxkd.core.writers import read_metrics
from jaxkd.train import train

CONFIG_FILE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_train
def get_config(arg=""):
    return test_train.make_config(Path({data!r}))
"""


def run_two(config_file: Path, workdir: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jaxkd.main", f"--config={config_file}"]
    command += [f"--workdir={workdir}", "--distributed", "--num_processes=2"]
    command += [f"--coordinator=127.0.0.1:{port}"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TPU_", "SLURM_"))
    } | {"JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={index}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    assert "Report:" in outputs[0]
    assert "Report:" not in outputs[1]


@pytest.mark.multiprocess
def test_two_processes_train_as_one(data_file, tmp_path):  # noqa: F811
    config_file = tmp_path / "config.py"
    tests = str(Path(__file__).parent)
    config_file.write_text(CONFIG_FILE.format(tests=tests, data=str(data_file)))
    run_two(config_file, tmp_path / "two")
    train(make_config(data_file), tmp_path / "one")

    for part in ("teacher", ""):
        one = read_metrics(tmp_path / "one" / part)
        two = read_metrics(tmp_path / "two" / part)
        assert [r["step"] for r in one] == [r["step"] for r in two]
        for ours, theirs in zip(one, two, strict=True):
            for key in ours.keys() - {"time", "step"}:
                assert theirs[key] == pytest.approx(ours[key], rel=1e-4, abs=1e-5)
    ours, theirs = final_params(tmp_path / "one"), final_params(tmp_path / "two")
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-3, atol=1e-5)
