"""Systems that train nothing, one file each: ``config.pipeline = "gits"``.

A file is a pipeline that defines ``default`` and ``check`` of its configuration,
``run``, ``write_report``, ``format_table`` and ``sample``, and ``RUNTIME_KEYS`` of the
configuration that change no result. Adding one needs no edit elsewhere. Its run has a
folder like a training's, which is kept here: ``run`` returns what was measured, and
keeps the parts of it by ``pipelines.workdir.keep``; the same command resumes it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxkd.core import lookup, records
from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.core.writers import plain
from jaxkd.pipelines import workdir as folders
from jaxkd.report.page import REPORT
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
      stop_requested: tells between two parts of the work who asks to stop, or None.

    Raises:
      UserError: for an impossible configuration, or a folder of another run.
      Interrupted: if it was asked to stop; what was done is saved.
    """
    check(config)
    workdir, pipeline = Path(workdir), _module(config.pipeline)
    if jax.process_count() > 1:
        raise UserError(
            f"The pipeline {config.pipeline} runs in one process, not "
            f"{jax.process_count()}. Start it without --distributed."
        )
    if config.get("dry_run", False):
        return pipeline.dry_run(config)
    keys = pipeline.default(), pipeline.RUNTIME_KEYS
    finished = folders.check_resumable(workdir, config, *keys)
    # A finished run is also shown where nothing can be written.
    whole = (workdir / REPORT).is_file() or not os.access(workdir, os.W_OK)
    if finished is not None and whole:
        return finished
    with locked(workdir):
        # Who held the lock before may have finished, or begun something else.
        results = folders.check_resumable(workdir, config, *keys)
        if results is None:
            folders.create(workdir, config)
            measured = pipeline.run(config, workdir, stop_requested)
            results = plain(folders.describe(config, workdir) | measured)
            pipeline.write_report(config, workdir, results)
            records.write_results(workdir, results)
        elif not (workdir / REPORT).is_file():
            pipeline.write_report(config, workdir, results)
    return results


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
