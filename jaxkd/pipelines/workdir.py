"""The folder of a pipeline's run, which keeps the contract of a training's.

``config.json`` tells whose it is. Each part of the work that is done lies in a file of
its own, in ``cells/``, so that a killed run goes on after the last of them.
``frozen.json`` tells with which networks they were computed. ``results.json`` comes
last; what all pipelines write into it is in docs/workdir.md.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jaxkd
from jaxkd.core import config as configs
from jaxkd.core import files, integrity, parsing, provenance, records
from jaxkd.core.errors import UserError
from jaxkd.training import growth
from jaxkd.training import workdir as workdirs
from jaxkd.training.workdir import CONFIG, RESULTS

CELLS, FROZEN = "cells", "frozen.json"
ANSWERS = "answers.jsonl"  # of a chat model, one a line
_REMEDY = "Delete it: the same command computes it again."


def check_resumable(
    workdir: Path,
    config: ConfigDict,
    default: ConfigDict,
    runtime_keys: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Checks that a folder is new, vacant, or of this configuration.

    Args:
      workdir: the folder.
      config: of the run.
      default: the pipeline's own, whose keys older runs may lack.
      runtime_keys: those that change no result, with which a run may go on.

    Returns:
      The results, if the run is finished; else None.

    Raises:
      UserError: if the folder holds the run of another configuration, with the keys
        that differ, or has lost its own.
    """
    if not (workdir / CONFIG).exists():
        if _holds_parts(workdir):
            raise workdirs.lost_config(workdir)
        return None
    saved = records.read_config(workdir)
    with parsing.parsing(workdir / CONFIG, "the configuration of a run", _RESTORE):
        lines = _difference(saved, config, default, runtime_keys)
    if lines:
        if _is_vacant(workdir):
            return None
        raise workdirs.other_config(workdir, lines)
    finished = (workdir / RESULTS).exists()
    return records.read_results(workdir) if finished else None


_RESTORE = "Restore it, or choose another --workdir."


def _difference(
    saved: dict[str, Any],
    config: ConfigDict,
    default: ConfigDict,
    runtime_keys: Sequence[str],
) -> list[str]:
    """Lists the keys, one line each, in which two configurations differ."""
    if "pipeline" not in saved:
        return [f"pipeline: (absent) -> {config.pipeline}"]
    old, new = configs.resolved(default) | saved, configs.resolved(config)
    left_out = {"needs", *runtime_keys}
    flat = [
        configs.flat({key: tree[key] for key in tree if key not in left_out})
        for tree in (old, new)
    ]
    lines = [
        f"{key}: {flat[0].get(key, '(absent)')} -> {flat[1].get(key, '(absent)')}"
        for key in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(key) != flat[1].get(key)
    ]
    old, new = old.get("needs", {}), new.get("needs", {})
    for name in sorted(old.keys() | new.keys()):
        if name in old and name in new:
            changed = configs.difference(old[name], new[name])
            lines += [f"needs.{name}.{line}" for line in changed]
        else:
            there, here = ("a run" if name in x else "(absent)" for x in (old, new))
            lines.append(f"needs.{name}: {there} -> {here}")
    return lines


def _holds_parts(workdir: Path) -> bool:
    """Tells whether something of a pipeline's work lies in a folder."""
    cells = workdir / CELLS
    return any((workdir / name).exists() for name in (RESULTS, ANSWERS)) or (
        cells.is_dir() and any(cells.glob("*.json"))
    )


def _is_vacant(workdir: Path) -> bool:
    """Tells whether nothing was computed or trained in a folder."""
    return not _holds_parts(workdir) and growth.is_vacant(workdir)


def create(workdir: Path, config: ConfigDict) -> None:
    """Makes the folder, and writes the configuration into it.

    Raises:
      UserError: if it cannot be written to.
    """
    workdirs.create(workdir, config)
    files.sweep(workdir / CELLS)
    if not _holds_parts(workdir):
        # Of a start that failed, perhaps with another network.
        (workdir / FROZEN).unlink(missing_ok=True)


def keep(
    workdir: Path, name: str, compute: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Computes a part of the work and keeps it; or reads it, if that was done before.

    Args:
      workdir: folder of the run.
      name: of the part, in its file's name.
      compute: returns plain data; ``seconds``, which it took, is added.

    Raises:
      UserError: if the file is damaged.
    """
    if not is_kept(workdir, name):
        (workdir / CELLS).mkdir(exist_ok=True)
        began = time.perf_counter()
        part = dict(compute())
        part["seconds"] = time.perf_counter() - began
        records.write_sealed(_path(workdir, name), part)
    return read(workdir, name)


def is_kept(workdir: Path, name: str) -> bool:
    """Tells whether a part of the work was done before."""
    return _path(workdir, name).exists()


def read(workdir: Path, name: str) -> dict[str, Any]:
    """Reads a part of the work that is kept.

    Raises:
      UserError: if its file is missing or damaged.
    """
    return records.read_sealed(_path(workdir, name), "a part of the results", _REMEDY)


def _path(workdir: Path, name: str, suffix: str = ".json") -> Path:
    return workdir / CELLS / f"{name.replace(' ', '-')}{suffix}"


def keep_pictures(workdir: Path, name: str, pictures: np.ndarray) -> None:
    """Keeps the pictures of a part, which its figure is drawn of.

    Call this before the part's own file is written, which marks it as done.

    Args:
      workdir: folder of the run.
      name: of the part.
      pictures: ``[n, height, width, 3]``.
    """
    (workdir / CELLS).mkdir(exist_ok=True)
    with files.replacing(_path(workdir, name, ".npz")) as path:
        np.savez_compressed(path, pictures=pictures)


def read_pictures(workdir: Path, name: str) -> np.ndarray:
    """Reads what ``keep_pictures`` kept.

    Raises:
      UserError: if it is missing or damaged.
    """
    path = _path(workdir, name, ".npz")
    remedy = "Choose another --workdir, or delete that folder and run it again."
    with parsing.parsing(path, "pictures of a run", remedy), np.load(path) as content:
        return content["pictures"]


def note_network(workdir: Path, name: str, path: str | Path, variables: Any) -> None:
    """Records a network that parts are computed with, or checks that it is the same.

    Args:
      workdir: folder of the run.
      name: of the network in the configuration.
      path: where it is from.
      variables: of it.

    Raises:
      UserError: if parts were computed with another one.
    """
    known = read_networks(workdir)
    found = integrity.content_hash(variables)
    if name in known and known[name]["hash"] != found:
        raise UserError(
            f"Parts of {workdir} were computed with another network {name!r}: its hash "
            f"was {known[name]['hash']} and is now {found}. Bring back the old one, or "
            "choose another --workdir."
        )
    if name not in known:
        known[name] = {"path": str(path), "hash": found}
        records.write_sealed(workdir / FROZEN, {"networks": known})


def read_networks(workdir: Path) -> dict[str, dict[str, str]]:
    """Returns the networks that parts were computed with: name -> path and hash.

    Raises:
      UserError: if their file is damaged.
    """
    path = workdir / FROZEN
    if not path.exists():
        return {}
    content = records.read_sealed(path, "the networks of a run", _RESTORE)
    return content["networks"]


def describe(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Returns what the results of all pipelines hold."""
    return {
        "finished": True,
        "pipeline": config.pipeline,
        "name": config.name,
        "version": jaxkd.__version__,
        "provenance": provenance.describe(),
        "environment": provenance.environment(),
        "seeds": list(config.seeds) if "seeds" in config else [config.seed],
        "frozen": read_networks(workdir),
    }
