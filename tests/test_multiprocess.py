"""Two processes against one, and what happens when one of them stops or dies."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxkd.core.writers import read_metrics
from jaxkd.train import train
from tests.test_train import data_file, final_params, make_config  # noqa: F401

pytestmark = pytest.mark.multiprocess

CONFIG_FILE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests import test_train
def get_config(arg=""):
    config = test_train.make_config(Path({data!r}), steps={steps})
    for each in (config, config.needs.teacher):
        each.eval_every = each.checkpoint_every = {every}
    return config
"""


def write_config(folder: Path, data: Path, steps: int, every: int) -> Path:
    path = folder / "config.py"
    tests = str(Path(__file__).parent.parent)
    path.write_text(
        CONFIG_FILE.format(tests=tests, data=str(data), steps=steps, every=every)
    )
    return path


def start_two(config_file: Path, workdir: Path, devices: int) -> list:
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
    } | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(config_file.parent / "compiled"),
    }
    running = []
    for index in range(2):
        output = config_file.parent / f"output{index}"
        with output.open("w") as sink:
            process = subprocess.Popen(
                [*command, f"--process_id={index}"],
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        running.append((process, output))
    return running


def finish(running: list, codes: tuple[int, int], seconds: float = 600) -> list[str]:
    """Waits for both, and returns what they wrote."""
    deadline = time.monotonic() + seconds
    for process, _ in running:
        process.wait(timeout=max(deadline - time.monotonic(), 0.1))
    texts = [output.read_text() for _, output in running]
    for (process, _), code, text in zip(running, codes, texts, strict=True):
        assert process.returncode == code, text
    return texts


def wait_for_checkpoint(running: list, folder: Path) -> None:
    deadline = time.monotonic() + 300
    while not any(p.name.isdigit() for p in folder.glob("*")):
        for process, output in running:
            assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(data_file, tmp_path_factory):  # noqa: F811
    """Twenty steps on one device of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    config = make_config(data_file, steps=20)
    for each in (config, config.needs.teacher):
        each.eval_every = each.checkpoint_every = 10
    train(config, workdir)
    return workdir


def test_two_processes_of_two_devices_train_as_one(
    alone,
    data_file,  # noqa: F811
    tmp_path,
):
    config_file = write_config(tmp_path, data_file, steps=20, every=10)
    texts = finish(start_two(config_file, tmp_path / "two", devices=2), (0, 0))
    assert "Report:" in texts[0]
    assert "Report:" not in texts[1]

    for part in ("teacher", ""):
        one = read_metrics(alone / part)
        two = read_metrics(tmp_path / "two" / part)
        assert [r["step"] for r in one] == [r["step"] for r in two]
        for ours, theirs in zip(one, two, strict=True):
            for key in ours.keys() - {"time", "step"}:
                # RLD multiplies rounding where the teacher is all but certain.
                close = 1e-5 if "rld" in key else 1e-6
                wanted = pytest.approx(ours[key], rel=close, abs=close)
                assert theirs[key] == wanted, key
    assert_close(tmp_path / "two", alone)


def test_two_processes_go_on_where_one_stopped(alone, data_file, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    shutil.copytree(alone, workdir)
    (workdir / "results.json").unlink()
    shutil.rmtree(workdir / "checkpoints/20")
    config_file = write_config(tmp_path, data_file, steps=20, every=10)
    texts = finish(start_two(config_file, workdir, devices=2), (0, 0))
    assert "Report:" in texts[0]
    first = [r["step"] for r in read_metrics(workdir) if "train_loss/kd/1" in r]
    assert first == [r["step"] for r in read_metrics(alone) if "train_loss/kd/1" in r]
    assert_close(workdir, alone)


def assert_close(workdir: Path, other: Path) -> None:
    ours, theirs = final_params(workdir), final_params(other)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5)


def test_a_signal_to_one_process_saves_and_ends_both(data_file, tmp_path):  # noqa: F811
    """The second gets it, the first owns the files.

    While they live nobody else may start; nor may they when what they saved is damaged.
    """
    config_file = write_config(tmp_path, data_file, steps=4000, every=20)
    running = start_two(config_file, tmp_path / "run", devices=1)
    wait_for_checkpoint(running, tmp_path / "run/teacher/checkpoints")
    second_start_is_refused(running, data_file, tmp_path)
    running[1][0].send_signal(signal.SIGTERM)
    texts = finish(running, (75, 75))
    steps = [re.search(r"stopped after step ([\d,]+) of 4,000", t)[1] for t in texts]
    assert steps[0] == steps[1]
    newest = max(
        int(p.name) for p in (tmp_path / "run/teacher/checkpoints").glob("[0-9]*")
    )
    assert newest == int(steps[0].replace(",", ""))
    damage_is_noticed_by_both(config_file, tmp_path / "run")


def second_start_is_refused(running, data, folder: Path) -> None:
    """Process 0 alone holds the lock; another pair ends with a line each."""
    for part in ("", "teacher"):
        owner = json.loads((folder / "run" / part / "lock").read_text())
        assert owner["pid"] == running[0][0].pid
    (folder / "second").mkdir()
    config_file = write_config(folder / "second", data, steps=4000, every=20)
    texts = finish(start_two(config_file, folder / "run", devices=1), (2, 2))
    lines = [last_line(text) for text in texts]
    assert "is in use" in lines[0] and str(running[0][0].pid) in lines[0]
    assert "Process 0 cannot lock" in lines[1]
    assert all(process.poll() is None for process, _ in running)


def damage_is_noticed_by_both(config_file: Path, workdir: Path) -> None:
    """Whole files of another step, in the only checkpoint that is left."""
    folder = workdir / "teacher/checkpoints"
    *others, older, newest = sorted(folder.glob("[0-9]*"), key=lambda p: int(p.name))
    shutil.rmtree(newest / "state")
    (older / "state").rename(newest / "state")
    for path in (*others, older):
        shutil.rmtree(path)
    texts = finish(start_two(config_file, workdir, devices=1), (2, 2))
    for text, why in zip(
        texts, ("not what was written", "process 0 says"), strict=True
    ):
        assert re.search(f"No checkpoint in .* can be read .*{why}", last_line(text))
    assert newest.is_dir() and not (workdir / "damaged").exists()


def last_line(text: str) -> str:
    """Returns it, having seen that it is the only message."""
    assert "Traceback" not in text, text
    assert text.count("jaxkd: error") <= 1, text
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_whose_peer_was_killed_ends_and_says_so(
    victim,
    data_file,  # noqa: F811
    tmp_path,
):
    config_file = write_config(tmp_path, data_file, steps=100_000, every=50)
    running = start_two(config_file, tmp_path / "run", devices=1)
    wait_for_checkpoint(running, tmp_path / "run/teacher/checkpoints")
    running[victim][0].kill()
    running[victim][0].wait()
    process, output = running[1 - victim]
    try:
        code = process.wait(timeout=120)
    finally:
        process.kill()
        process.wait()
    text = output.read_text()
    assert code not in (0, 75), text
    assert re.search("another one has died|distributed service|coordination", text), (
        text
    )
