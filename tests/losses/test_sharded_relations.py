"""A batch that is spread over devices is one batch to the losses that relate it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_relations_of_a_sharded_batch_equal_those_of_a_whole_one():
    script = Path(__file__).with_name("sharded_relations.py")
    # As users compile: the bound is on what that rounds.
    run = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    line = next(x for x in run.stdout.splitlines() if x.startswith("RESULT"))
    found = json.loads(line.removeprefix("RESULT"))
    control = found.pop("control")[0]
    assert control > 1e-3
    for name, (value, slope, devices) in found.items():
        assert devices == 4
        assert value < 1e-5 and slope < 1e-5, name
