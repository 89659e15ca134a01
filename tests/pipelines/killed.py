"""Edits scenes until it is killed, after so many parts; run by test_workdir.py."""

import os
import signal
import sys
from pathlib import Path

from jaxkd import pipelines
from jaxkd.core import config_file
from jaxkd.pipelines import scene_model
from jaxkd.pipelines import workdir as folders


def edits(**changed):
    config = config_file.load("parallel_edits:quick")
    config.update({"scenes": 2, "seeds": (0, 1), "methods": ("copy source",)})
    config.edits = (1, 2)
    config.update(changed)
    return config


if __name__ == "__main__":
    workdir, left = Path(sys.argv[1]), int(sys.argv[2])
    keep = folders.keep

    def keep_some(*part):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return keep(*part)

    folders.keep = keep_some
    scene_model.load = lambda *_: None  # of which copying the source makes no use
    pipelines.run(edits(), workdir)
