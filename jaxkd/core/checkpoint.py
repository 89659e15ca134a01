"""Checkpoints of a run through Orbax: asynchronous, the newest few, resumable.

A checkpoint holds the training state, each member's best parameters and a small JSON
record: which members, which frozen teachers, the configuration, and a hash of each
array, which is compared whenever it is read. Frozen teachers themselves are never
saved. Restoring always names the expected shapes and shardings, so a run may be resumed
on other devices than it was started on.
"""

import contextlib
import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxkd.core import aliases, disk, integrity, parsing
from jaxkd.core.distributed import from_first
from jaxkd.core.errors import UserError
from jaxkd.core.study import Group

_ITEMS = ("state", "best", "meta")
# Orbax measures waiting by the clock on the wall: one that is set a day forward must
# not look like a disk that hangs.
_PATIENCE = 365 * 24 * 3600
_HASHES = integrity.HASHES
_ADVICE = (
    "Bring back a copy of it; or move it away, and the training command goes on from "
    "the checkpoint before it."
)


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
        meta = integrity.sealed(json.loads(json.dumps({**meta, _HASHES: hashes})))
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
        saved = _metadata(path)
        compare(path, _with_new_names(saved), state)
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
        meta = _read_meta(path)
        found = {
            item: _read_arrays(path / item, _metadata(path / item))
            for item in ("state", "best")
        }
        _check(meta, found)
        names = integrity.named_leaves(found).keys()
        if _HASHES in meta and meta[_HASHES].keys() != names:
            raise ValueError("it holds other arrays than were written")
    except Exception as error:  # whatever a library makes of half a file
        return parsing.reason(error)
    return ""


def _check(meta: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compares arrays, by item, with the hashes in the record, if it has them.

    Raises:
      ValueError: if they are not what was written.
    """
    if _HASHES in meta:  # checkpoints of version 0.1 have none
        integrity.check_leaves(meta[_HASHES], found)


def _bare(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record as it was given to ``save``."""
    return {k: v for k, v in meta.items() if k not in (_HASHES, integrity.SEAL)}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a damaged checkpoint makes of the reader into one error."""
    with parsing.parsing(path, "a whole checkpoint", _ADVICE):
        yield


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


def compare(origin: Any, saved: Any, wanted: Any) -> None:
    """Compares the shapes of a saved tree with those that are wanted.

    Args:
      origin: where the saved tree is from.
      saved: a tree of arrays, or of anything with a shape.
      wanted: likewise.

    Raises:
      UserError: with a line for each leaf that is missing, unexpected or of another
        shape.
    """
    leaves = integrity.named_leaves
    got = {name: tuple(leaf.shape) for name, leaf in leaves(saved).items()}
    want = {name: tuple(leaf.shape) for name, leaf in leaves(wanted).items()}
    kinds = (
        [f"  missing: {name}" for name in sorted(want.keys() - got.keys())],
        [f"  unexpected: {name}" for name in sorted(got.keys() - want.keys())],
        [
            f"  {name}: got {got[name]}, expected {want[name]}"
            for name in sorted(want.keys() & got.keys())
            if want[name] != got[name]
        ],
    )
    if any(kinds):
        shown = "\n".join(line for lines in kinds for line in _shorten(lines))
        raise UserError(
            f"The checkpoint {origin} is of another model:\n{shown}\nName the "
            "network that was saved, with its options, or give another checkpoint."
        )


def _shorten(lines: list[str], limit: int = 6) -> list[str]:
    if len(lines) <= limit:
        return lines
    return [*lines[:limit], f"  ... and {len(lines) - limit} more"]


def load_member(
    directory: Path, use: str, student: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Loads the network of one member of a finished or unfinished run.

    Args:
      directory: the run's ``checkpoints`` folder.
      use: "last" or "best".
      student: its name; None for the first.
      seed: its seed; None for the first.

    Returns:
      The network's variables (``params``, ``batch_stats``) as NumPy arrays.

    Raises:
      UserError: if there is no checkpoint or no such member.
    """
    path = _newest(directory)
    group, index = _find_member(_read_meta(path)["members"], student, seed)
    member = jax.tree.map(lambda x: x[index], _load_group(path, use, group))
    return {"params": member["params"]["student"], **member["model_state"]["student"]}


def read_meta(directory: Path) -> dict[str, Any]:
    """Reads the record of a run's newest checkpoint: step, members, frozen networks.

    Raises:
      UserError: if there is no checkpoint.
    """
    return aliases.renamed(_read_meta(_newest(directory)), aliases.META)


def read_config(directory: Path) -> dict[str, Any] | None:
    """Returns the configuration in the newest checkpoint's record, as JSON types.

    None if there is no checkpoint, or it is of version 0.1.

    Raises:
      UserError: if it is damaged.
    """
    if not _steps(directory):
        return None
    return _read_meta(_newest(directory)).get("config")


def load_groups(
    directory: Path, use: str, groups: Sequence[Group]
) -> dict[str, dict[str, Any]]:
    """Loads ``params`` and ``model_state`` of whole groups, as NumPy arrays.

    Args:
      directory: the run's ``checkpoints`` folder.
      use: "last" or "best".
      groups: of the run.

    Raises:
      UserError: if there is no checkpoint, or it holds other students.
    """
    path = _newest(directory)
    check_members(directory, _read_meta(path), groups)
    return {group.name: _load_group(path, use, group.name) for group in groups}


def check_members(
    directory: Path, meta: Mapping[str, Any], groups: Sequence[Group]
) -> None:
    """Checks that a checkpoint holds the students of a run, in their order.

    Raises:
      UserError: if it does not.
    """
    if meta["members"] != member_table(groups):
        raise UserError(
            f"{directory} holds the students {meta['members']}, but the configuration "
            f"names {member_table(groups)}, in this order. Restore config.students and "
            "config.seeds, or choose another --workdir."
        )


def latest_step(directory: Path) -> int | None:
    """Returns the step of the newest checkpoint in a folder, or None."""
    return max(_steps(directory), default=None)


def _steps(directory: Path) -> list[int]:
    return [int(p.name) for p in directory.glob("*") if re.fullmatch("[0-9]+", p.name)]


def _newest(directory: Path) -> Path:
    steps = _steps(directory)
    if not steps:
        raise UserError(
            f"{directory} holds no checkpoint. Expected the workdir of a run that has "
            "saved at least one: train it first, or check the path."
        )
    return directory.absolute() / str(max(steps))


def _read_meta(path: Path) -> dict[str, Any]:
    with _reading(path):
        meta = _reader(ocp.JsonCheckpointHandler).restore(path / "meta")
        integrity.check_seal(meta, required=_HASHES in meta)
        if integrity.SEAL in meta and _HASHES not in meta:
            raise ValueError("its record lacks the hashes")
        return meta


def _find_member(groups: dict[str, list], student, seed) -> tuple[str, int]:
    members = {
        (name, at): (group, index)
        for group, rows in groups.items()
        for index, (name, at) in enumerate(rows)
    }
    for (name, at), place in members.items():
        if student in (None, name) and seed in (None, at):
            return place
    known = ", ".join(f"{name} (seed {at})" for name, at in members)
    raise UserError(f"No student {student!r} with seed {seed}. There are: {known}.")


def _load_group(path: Path, use: str, group: str) -> dict[str, Any]:
    item = "best" if use == "best" else "state"
    meta = _read_meta(path)
    with _reading(path):
        tree = _metadata(path / item)[group]
        old = {new: old for old, new in aliases.STATE.items() if old in tree}
        names = {
            "params": "ema" if tree.get("ema") is not None else "params",
            "model_state": old.get("model_state", "model_state"),
        }
        expected = {group: {name: tree[name] for name in names.values()}}
        loaded = _read_arrays(path / item, expected)
        _check(meta, {item: loaded})
    return {name: loaded[group][saved] for name, saved in names.items()}


def _read_arrays(path: Path, wanted: Any) -> Any:
    """Reads a part of a saved tree, named by its metadata, as NumPy arrays."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), wanted)
    as_numpy = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    return _reader(ocp.PyTreeCheckpointHandler).restore(
        path,
        args=ocp.args.PyTreeRestore(
            shapes, restore_args=as_numpy, partial_restore=True
        ),
    )


def _metadata(path: Path) -> Any:
    return _reader(ocp.PyTreeCheckpointHandler).metadata(path).item_metadata.tree


def _reader(handler: Any) -> ocp.Checkpointer:
    """Makes a reader that waits for no other process, since not all may read."""
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"read{own}"
    )
    return ocp.Checkpointer(
        handler(multiprocessing_options=options), multiprocessing_options=options
    )


def member_table(groups: Sequence[Group]) -> dict[str, list]:
    """Lists the members of each group, for a checkpoint's record."""
    return {group.name: [list(member) for member in group.members] for group in groups}
