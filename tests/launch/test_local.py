"""The pretend pod."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxkd.core.writers import read_metrics
from tests.test_multiprocess import write_config
from tests.test_train import data_file  # noqa: F401

LOCAL = Path(__file__).parents[2] / "launch" / "local.py"

# Stands in for jaxkd.main: what process 1 does is an argument; process 0 goes on until
# it is told to stop, and says what it was told.
FAKE = """
import os, signal, sys, time

def saved(number, _):
    print("told", signal.Signals(number).name, flush=True)
    if "stubborn" not in sys.argv:
        sys.exit(75)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, saved)
me = [a for a in sys.argv if a.startswith("--process_id=")][0][-1]
print("ready", flush=True)
if "all" in sys.argv or me == "1":
    if "exit" in sys.argv:
        time.sleep(0.2)
        sys.exit(int(sys.argv[-1]))
    if "kill" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    if "environment" in sys.argv:
        names = ("JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS", "TPU_NAME", "SLURM_JOB_ID")
        print([os.environ.get(name) for name in names])
        print(sys.argv[1:])
        # Then a terminal's Ctrl-C reaches it through the launcher only.
        print("own session", os.getsid(0) == os.getpid())
        sys.exit()
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def start(tmp_path):
    """Starts the launcher on the stand-in; what is left of it is killed afterwards."""
    (tmp_path / "stand_in.py").write_text(FAKE)
    started = []

    def start(*arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, str(LOCAL), "--module=stand_in", *arguments],
            env=os.environ | {"PYTHONPATH": str(tmp_path)} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def run(*arguments):
    command = [sys.executable, str(LOCAL), *arguments]
    # JAX, imported here, sets some of its own.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "SLURM_"))}
    environment = kept | {"TPU_NAME": "t"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=600
    )


def test_help_tells_the_usage():
    done = run("--help")
    assert done.returncode == 0
    assert "ARGUMENTS OF jaxkd.main" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--processes=0", "--config=c"]])
def test_what_is_missing_or_impossible_is_refused(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "error:" in done.stderr


def test_dry_run_prints_commands_that_a_shell_reads():
    done = run("--dry-run", "--port=99", "--devices=3", "--config=c", "--x=a b")
    first, second, last = done.stdout.splitlines()
    front = "env -u TPU_NAME JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 "
    front += f"{sys.executable} -m jaxkd.main --distributed --coordinator=127.0.0.1:99 "
    assert first == f"{front}--num_processes=2 --process_id=0 --config=c '--x=a b' &"
    assert second == first.replace("process_id=0", "process_id=1")
    assert last == "wait"


def test_processes_get_devices_and_no_trace_of_a_cluster(start):
    options = ["--processes=3", "--devices=4", "--port=99"]
    ids = {"TPU_NAME": "t", "SLURM_JOB_ID": "1"}
    out, _ = start(*options, "all", "environment", **ids).communicate(timeout=30)
    lines = sorted(out.splitlines())
    for index in range(3):
        mine = [line[4:] for line in lines if line.startswith(f"[{index}] ")]
        flags = ["--distributed", "--coordinator=127.0.0.1:99", "--num_processes=3"]
        flags += [f"--process_id={index}", "all", "environment"]
        environment = "['4', 'cpu', None, None]"
        assert set(mine) == {"ready", environment, str(flags), "own session True"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["exit", "3"], 3, "process 1 ended with code 3; ending the others."),
        (["kill"], 137, "process 1 was killed by SIGKILL; ending the others."),
    ],
)
def test_a_process_that_fails_ends_the_others(start, arguments, code, message):
    process = start(*arguments)
    out, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert error == f"local.py: {message}\n"
    assert "[0] told SIGTERM" in out.splitlines()


def test_who_does_not_end_is_killed_in_the_end(start):
    process = start("--grace=0.3", "stubborn", "exit", "3")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 3
    assert error.endswith("local.py: killing 0, still there after 0.3 s.\n")


def test_a_process_that_has_saved_leaves_the_others_to_save(start):
    process = start("--grace=0.3", "exit", "75")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "told" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(start, number):
    process = start("go")
    for _ in range(2):
        assert process.stdout.readline().endswith("ready\n")
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 75
    assert sorted(out.splitlines()) == [f"[{i}] told {number.name}" for i in range(2)]
    assert "stopped and saved: the same command resumes" in error


@pytest.mark.multiprocess
def test_the_main_job_runs_on_two_processes(data_file, tmp_path):  # noqa: F811
    config = write_config(tmp_path, data_file, steps=12, every=4)
    done = run("--devices=1", f"--config={config}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    report = f"Report: {tmp_path / 'run' / 'report.html'}"
    assert f"[0] {report}" in lines
    assert f"[1] {report}" not in lines
    assert any(line.startswith("[1] jaxkd ") for line in lines)
    for part in ("", "teacher"):
        assert read_metrics(tmp_path / "run" / part)[-1]["step"] == 12
