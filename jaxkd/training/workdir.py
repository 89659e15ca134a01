"""The folder of a run: whose it is, and whether it is finished.

``config.json`` (resolved), ``metrics.jsonl``, ``checkpoints/``, ``results.json``,
``report.html`` with ``figures/``, ``tensorboard/``, and one folder per needed run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxkd.core import checkpoint, files, lookup, parsing, records
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.records import CONFIG, RESULTS
from jaxkd.core.writers import plain, write_json

_REMEDY = "Restore it, or choose another --workdir."


def check_resumable(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """Checks that a folder is new or belongs to this configuration.

    Returns:
      The results, if the run is finished; else None.

    Raises:
      UserError: if the folder holds the run of another configuration, or has lost its
        own.
    """
    if not (workdir / CONFIG).exists():
        _check_new(workdir, config)
        return None
    check_same(workdir, records.read_config(workdir), config)
    finished = (workdir / RESULTS).exists()
    return records.read_results(workdir) if finished else None


def check_same(folder: Path, saved: dict[str, Any], config: ConfigDict) -> None:
    """Compares a saved configuration with this one.

    Raises:
      UserError: naming the keys that differ.
    """
    if "pipeline" in saved:
        raise other_config(folder, [f"pipeline: {saved['pipeline']} -> (absent)"])
    with parsing.parsing(folder, "the folder of a run", _REMEDY):
        lines = configs.difference(saved, configs.resolved(config))
    if lines:
        raise other_config(folder, lines)


def other_config(folder: Path, lines: Sequence[str]) -> UserError:
    """Returns the error that a folder is another run's, which differs in these keys."""
    shown = "\n  ".join(lines[:12])
    return UserError(
        f"{folder} holds the run of another configuration (there -> here):\n"
        f"  {shown}\nChoose another --workdir, or delete that folder."
    )


def lost_config(folder: Path) -> UserError:
    """Returns the error that a folder does not tell whose run it holds."""
    return UserError(
        f"{folder} holds a run, but not its {CONFIG}, so that it cannot be told "
        "whether it is the same. Restore that file, or choose another --workdir."
    )


def _check_new(workdir: Path, config: ConfigDict) -> None:
    """Raises UserError if a folder has lost its configuration and may be another's.

    Checkpoints have recorded it, those of version 0.1 excepted.
    """
    folder = workdir / "checkpoints"
    lost = (workdir / RESULTS).exists()
    if not lost and folder.is_dir() and checkpoint.latest_step(folder) is not None:
        recorded = checkpoint.read_config(folder)
        if recorded is not None:
            check_same(folder, recorded, config)
        lost = recorded is None
    if lost:
        raise lost_config(workdir)


def check_defaults(workdir: Path, options: Mapping[str, Any]) -> None:
    """Checks that what a run left to defaults still is what it was.

    Args:
      workdir: of a run that is new, or goes on.
      options: all of them, of ``training.options.resolved``.

    Raises:
      UserError: if a default has changed since the run began.
    """
    there = (workdir / CONFIG).exists()
    saved = records.read_config(workdir).get(configs.RESOLVED) if there else None
    if saved is None:
        return
    with parsing.parsing(workdir / CONFIG, "the configuration of a run", _REMEDY):
        old, new = configs.flat(saved), configs.flat(plain(options))
    lines = [
        f"{key}: {old[key]} -> {new[key]}"
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key]
    ]
    if lines:
        shown = "\n  ".join(lines[:12])
        raise UserError(
            f"{workdir} holds a run that began with other defaults (then -> now):\n"
            f"  {shown}\nFinish it with the version that began it, or choose another "
            "--workdir and set them as they were."
        )


def create(
    workdir: Path, config: ConfigDict, options: Mapping[str, Any] | None = None
) -> None:
    """Makes the folder and writes the configuration into it (process 0).

    What a killed process was writing into it is deleted.

    Args:
      workdir: the folder.
      config: of the run.
      options: with the defaults, to be recorded, of ``training.options.resolved``.
    """
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            for name in ("checkpoints", "figures", "tensorboard"):
                if (workdir / name).exists() and not (workdir / name).is_dir():
                    raise UserError(
                        f"{workdir / name} is a file, where a run keeps a folder. "
                        "Move it away, or choose another --workdir."
                    )
            files.sweep(workdir, workdir / "checkpoints", workdir / "figures")
            recorded = {} if options is None else {configs.RESOLVED: options}
            write_json(workdir / CONFIG, configs.resolved(config) | recorded)
        except OSError as error:
            raise UserError(
                f"Cannot write to {workdir}: {error.strerror}. Choose a --workdir that "
                "can be written to and has space left."
            ) from error


def read_json(path: Path) -> Any:
    """Reads a JSON file of a run.

    Raises:
      UserError: if it is damaged.
    """
    return parsing.read_json(path, "a file of a run", _REMEDY)


def read_results(workdir: Path) -> dict[str, Any]:
    """Returns the results of a finished run.

    Raises:
      UserError: if the run is not finished.
    """
    if not (workdir / RESULTS).is_file():
        raise UserError(
            f"{workdir} holds no {RESULTS}. Expected the workdir of a finished run: "
            "check the path, or finish it by running its training command again."
        )
    return records.read_results(workdir)


def read_config(workdir: Path) -> ConfigDict:
    """Returns the configuration that a run was started with.

    Own code that it names is searched in the folder that it had then, too.

    Raises:
      UserError: if the folder holds no run, that of a pipeline, or its file is not that
        of the run.
    """
    if not (workdir / CONFIG).is_file():
        raise UserError(
            f"{workdir} holds no {CONFIG}. Expected the workdir of a run: check the "
            "path, or train it first with --mode=train."
        )
    saved = records.read_config(workdir)
    if "pipeline" in saved:
        raise UserError(
            f"{workdir} holds a run of the pipeline {saved['pipeline']!r}, without a "
            "trained network of its own. Expected the workdir of a training run; "
            "report.html and jaxkd.api.results show what the pipeline has found."
        )
    with parsing.parsing(workdir / CONFIG, "the configuration of a run", _REMEDY):
        config = configs.from_json(saved)
        configs.check(config)
    if config.code:
        lookup.add_folder(config.code)
    return config
