"""Systems that train nothing, one file each: ``config.pipeline = "gits"``.

A file that defines ``run``, ``check``, ``format_table`` and ``sample`` is a pipeline;
its ``default`` says what its configuration may hold. Adding one needs no edit
elsewhere. A pipeline's run has a folder like a training's: ``config.json``,
``results.json`` and ``report.html``; the same command resumes it.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.training.workdir import RESULTS
from jaxkd.training.workdir_lock import locked


def check(config: ConfigDict) -> None:
    """Checks names, types and ranges before anything is loaded or compiled.

    Raises:
      UserError: for an unknown pipeline, an unknown key or an impossible value.
    """
    _module(config.pipeline).check(config)


def run(
    config: ConfigDict, workdir: str | Path, stop_requested: StopRequest = never_stop
) -> dict[str, Any]:
    """Runs a pipeline, or resumes it, and returns its results.

    Args:
      config: as its file in ``configs/`` makes it.
      workdir: folder of the run; a finished run's results are read from there.
      asked: tells between two parts of the work who asks to stop, or None.

    Raises:
      UserError: for an impossible configuration, or a folder of another run.
      Interrupted: if it was asked to stop; what was done is saved.
    """
    check(config)
    workdir, pipeline = Path(workdir), _module(config.pipeline)
    # A finished run is also shown where nothing can be written.
    only_read = (workdir / RESULTS).exists() and not os.access(workdir, os.W_OK)
    with contextlib.nullcontext() if only_read else locked(workdir):
        return pipeline.run(config, workdir, stop_requested)


def format_table(results: Mapping[str, Any]) -> str:
    """Formats results for the terminal."""
    return _module(results["pipeline"]).format_table(results)


def sample(
    config: ConfigDict,
    workdir: str | Path,
    seeds: Sequence[int],
    output: str | Path | None = None,
) -> Path:
    """Draws one sample a seed and writes them as a picture.

    Args:
      config: as its file in ``configs/`` makes it.
      workdir: folder of a finished run, whose findings are used.
      seeds: whole numbers, such as ``range(64)``.
      output: a PNG file; by default one in the folder.

    Returns:
      The file.

    Raises:
      UserError: for an impossible configuration, or if there is nothing to draw.
    """
    check(config)
    return _module(config.pipeline).sample(config, Path(workdir), seeds, output)


def _module(name: Any) -> ModuleType:
    if not isinstance(name, str):
        raise UserError(f"config.pipeline is {name!r}, expected a name such as 'gits'.")
    return lookup.module(__name__, name, "run")
