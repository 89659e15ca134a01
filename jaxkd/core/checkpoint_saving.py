"""Saves checkpoints while a run trains: asynchronously, the newest few; restores them.

Frozen teachers themselves are never saved. Restoring always names the expected shapes
and shardings, so a run may be resumed on other devices than it was started on. What a
checkpoint holds: ``checkpoint``.
"""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxkd.core import aliases, checkpoint, disk, integrity, parsing
from jaxkd.core.distributed import from_first
from jaxkd.core.errors import UserError
from jaxkd.core.integrity import HASHES

_ITEMS = ("state", "best", "meta")
# Orbax measures waiting by the clock on the wall: one that is set a day forward must
# not look like a disk that hangs.
_PATIENCE = 365 * 24 * 3600


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: Any
    best: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, a context manager."""

    def __init__(self, directory: Path, keep: int):
        self.directory = directory.absolute()
        alone = jax.process_count() == 1
        waiting = ocp.options.AsyncOptions(
            **({"timeout_secs": _PATIENCE} if alone else {}),
            # Else threads wait for a folder that another could not make.
            create_directories_asynchronously=False,
        )
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, async_options=waiting)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=_ITEMS
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            with disk.writing("a checkpoint", self.directory):
                self._manager.close()
        except Exception:
            # An error that is already on its way tells more than this one.
            if error is None:
                raise

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, best: Any, meta: dict[str, Any]) -> None:
        """Starts to save; returns once the arrays are copied from the device.

        Raises:
          UserError: if it cannot be written, or the previous one could not be.
        """
        hashes = integrity.leaf_hashes({"state": state, "best": best})
        meta = integrity.sealed(json.loads(json.dumps({**meta, HASHES: hashes})))
        with disk.writing("a checkpoint", self.directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    best=ocp.args.StandardSave(best),
                    meta=ocp.args.JsonSave(meta),
                ),
            )

    def wait(self) -> None:
        """Waits until everything is written, and reports what failed."""
        with disk.writing("a checkpoint", self.directory):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def set_aside_damaged(self) -> None:
        """Makes the newest readable checkpoint the latest, with a warning for others.

        Process 0 reads them before any process restores, so that all restore the same.
        What cannot be read is renamed, not deleted.

        Raises:
          UserError: if there are checkpoints, but none can be read.
        """
        damaged = []
        if jax.process_index() == 0:
            for step in sorted(self._manager.all_steps(), reverse=True):
                if problem := _damage(self.directory / str(step)):
                    damaged.append((step, problem))
                else:
                    break
        count = int(from_first(np.array(len(damaged))))
        if count == len(self._manager.all_steps()) > 0:
            problems = "; ".join(f"{step}: {problem}" for step, problem in damaged)
            raise UserError(
                f"No checkpoint in {self.directory} can be read "
                f"({problems or 'process 0 says why'}). Bring back a copy, or delete "
                "the folder to start from the beginning."
            )
        for step, problem in damaged:
            path = self.directory / str(step)
            aside = self.directory.parent / "damaged" / path.name
            aside.parent.mkdir(exist_ok=True)
            path.rename(_unused(aside))
            warnings.warn(
                f"The checkpoint {path} is damaged ({problem}) and was moved to "
                f"{aside.parent}. Resuming from the one before it.",
                stacklevel=2,
            )
        if count:
            from_first(np.array(0))  # the others wait until all are moved
            self._manager.reload()

    def restore(self, state: Any, best: Any) -> Restored:
        """Restores the newest checkpoint.

        Args:
          state: expected shapes, dtypes and shardings, as ``jax.ShapeDtypeStruct``.
          best: likewise.

        Raises:
          UserError: if the checkpoint is of another model; lists the differences.
        """
        step = self._manager.latest_step()
        path = self.directory / str(step) / "state"
        saved = checkpoint.read_metadata(path)
        checkpoint.compare(path, _with_new_names(saved), state)
        names = _old_names(saved)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_under(names, state)),
                best=ocp.args.StandardRestore(_under(names, best)),
                meta=ocp.args.JsonRestore(),
            ),
        )
        meta = aliases.renamed(_bare(restored.meta), aliases.META)
        return Restored(
            _from_under(names, restored.state, state),
            _from_under(names, restored.best, best),
            meta,
        )


def _old_names(saved: Mapping[str, Any]) -> dict[str, str]:
    """Returns new name -> old name of the parts of the state that were renamed."""
    parts = {part for group in saved.values() for part in group}
    return {new: old for old, new in aliases.STATE.items() if old in parts}


def _with_new_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {g: aliases.renamed(part, aliases.STATE) for g, part in saved.items()}


def _under(names: Mapping[str, str], groups: Mapping[str, Any]) -> Any:
    """Returns states as dictionaries of the old names, if there are any."""
    if not names:
        return groups
    return {
        group: {
            names.get(field.name, field.name): getattr(state, field.name)
            for field in dataclasses.fields(state)
        }
        for group, state in groups.items()
    }


def _from_under(names: Mapping[str, str], tree: Any, like: Mapping[str, Any]) -> Any:
    """Undoes ``_under``."""
    if not names:
        return tree
    return {
        group: type(state)(
            **{
                field.name: tree[group].get(names.get(field.name, field.name))
                for field in dataclasses.fields(state)
            }
        )
        for group, state in like.items()
    }


def _damage(path: Path) -> str:
    """Reads a whole checkpoint; returns what is wrong with it, or an empty string."""
    try:
        meta = checkpoint.read_record(path)
        found = {
            item: checkpoint.read_arrays(
                path / item, checkpoint.read_metadata(path / item)
            )
            for item in ("state", "best")
        }
        checkpoint.check_hashes(meta, found)
        names = integrity.named_leaves(found).keys()
        if HASHES in meta and meta[HASHES].keys() != names:
            raise ValueError("it holds other arrays than were written")
    except Exception as error:  # whatever a library makes of half a file
        return parsing.reason(error)
    return ""


def _bare(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record as it was given to ``save``."""
    return {k: v for k, v in meta.items() if k not in (HASHES, integrity.SEAL)}


def _unused(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free


def check_space(directory: Path, tree: Any) -> None:
    """Checks that two checkpoints of ``tree`` fit on the disk, before any work is done.

    Raises:
      UserError: if they do not.
    """
    wanted = 2 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    free = shutil.disk_usage(directory).free
    if free < wanted:
        raise UserError(
            f"{directory} has {free / 1e6:.1f} MB free, expected {wanted / 1e6:.1f} MB "
            "for two checkpoints (an old one goes when a new one is complete). Free "
            "some space, or choose a --workdir on another disk."
        )
