"""The command line: what is wrong with it is said in a line, with status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RLD = "--config=configs/rld.py"


def call(*arguments):
    return python("-m", "jaxkd.main", *arguments)


def python(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no_such_flag=1"], "wrong command line"),
        ([RLD, "--config.bacth_size=1"], "did you mean 'batch_size'?"),
        ([RLD, "--config.students.kd.loss.temprature=1"], "mean 'temperature'?"),
        ([RLD, "--students=kd,rdl"], "did you mean 'rld'?"),
        (["--students=kd"], "--students=kd needs --config"),
        ([RLD + ":no_such_variant"], "variant is 'no_such_variant'"),
        ([RLD, "surplus"], "unexpected argument 'surplus'"),
        (["--config=rdl:digits"], "Did you mean 'rld:digits'?"),
        (["--mode=train"], "--config is missing"),
        (["--mode=export"], "--mode=export needs --workdir"),
        (["--mode=eval", "--workdir=~/no_such_run"], f"{Path.home()}/no_such_run"),
        (["--mode=compare", "--inputs=~/no_such_run"], f"{Path.home()}/no_such_run"),
        (
            [RLD, "--config.needs.teacher.init_from=~/no_such_run", "--workdir=~/no/w"],
            f"{Path.home()}/no_such_run",
        ),
        (["--mode=export", "--workdir=w", "--format=tflite"], "wrong command line"),
        ([RLD, "--mode=sample", "--workdir=w"], "wants a pipeline"),
        (
            ["--config=configs/gits.py", "--mode=sample", "--workdir=w", "--seeds=5-1"],
            "--seeds is '5-1'",
        ),
        (["--config=configs/gits.py", "--mode=compile"], "wants a training run"),
        (["--config=configs/gits.py", "--config.nfe=(0,)"], "config.nfe is (0,)"),
    ],
)
def test_mistakes(arguments, said):
    done = call(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["module", "command"])
def test_help_names_the_modes(program):
    # What pip makes of [project.scripts] imports the function and calls it.
    command = ("-c", "from jaxkd.main import run; run()", "--help")
    done = call("--help") if program == "module" else python(*command)
    assert "Train, evaluate, use and export" in done.stdout
    for mode in ("train", "eval", "predict", "sample", "compile", "export", "compare"):
        assert f"{mode}:" in done.stdout
