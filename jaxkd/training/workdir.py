"""The folder of a run: whose it is, and whether it is finished.

``config.json`` (resolved), ``metrics.jsonl``, ``checkpoints/``, ``results.json``,
``report.html`` with ``figures/``, ``tensorboard/``, and one folder per needed run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core import files, lookup
from jaxkd.core.errors import UserError
from jaxkd.core.writers import plain, write_json

CONFIG, RESULTS = "config.json", "results.json"


def check_resumable(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """Checks that a folder is new or belongs to this configuration.

    Returns:
      The results, if the run is finished; else None.

    Raises:
      UserError: if the folder holds the run of another configuration.
    """
    path = workdir / CONFIG
    if not path.exists():
        return None
    saved = read_json(path)
    lines = configs.difference(saved, configs.resolved(config))
    if lines:
        shown = "\n  ".join(lines[:12])
        raise UserError(
            f"{workdir} holds the run of another configuration (there -> here):\n"
            f"  {shown}\nChoose another --workdir, or delete that folder."
        )
    results = workdir / RESULTS
    return read_json(results) if results.exists() else None


def check_defaults(workdir: Path, options: Mapping[str, Any]) -> None:
    """Checks that what a run left to defaults still is what it was.

    Args:
      workdir: of a run that is new, or goes on.
      options: all of them, of ``training.options.resolved``.

    Raises:
      UserError: if a default has changed since the run began.
    """
    path = workdir / CONFIG
    saved = read_json(path).get(configs.RESOLVED) if path.exists() else None
    if saved is None:
        return
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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON ({error}). It may have been edited or cut off: "
            "restore it, or choose another --workdir."
        ) from error


def read_results(workdir: Path) -> dict[str, Any]:
    """Returns the results of a finished run.

    Raises:
      UserError: if the run is not finished.
    """
    path = workdir / RESULTS
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no {RESULTS}. Expected the workdir of a finished run: "
            "check the path, or finish it by running its training command again."
        )
    return read_json(path)


def read_config(workdir: Path) -> ConfigDict:
    """Returns the configuration that a run was started with.

    Own code that it names is searched in the folder that it had then, too.

    Raises:
      UserError: if the folder holds no run.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no {CONFIG}. Expected the workdir of a run: check the "
            "path, or train it first with --mode=train."
        )
    config = configs.from_json(read_json(path))
    if config.code:
        lookup.add_folder(config.code)
    return config
