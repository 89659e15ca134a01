"""Reads the checkpoints of a run: whole groups, one member, the record.

A checkpoint is a folder of Orbax. It holds the training state, each member's best
parameters and a small JSON record: which members, which frozen teachers, the
configuration, and a hash of each array, which is compared whenever it is read. They are
written by ``checkpoint_saving``.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxkd.core import aliases, integrity, parsing
from jaxkd.core.errors import UserError
from jaxkd.core.study import Group

_HASHES = integrity.HASHES
_ADVICE = (
    "Bring back a copy of it; or move it away, and the training command goes on from "
    "the checkpoint before it."
)


def check_hashes(meta: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compares arrays, by item, with the hashes in the record, if it has them.

    Raises:
      ValueError: if they are not what was written.
    """
    if _HASHES in meta:  # checkpoints of version 0.1 have none
        integrity.check_leaves(meta[_HASHES], found)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a damaged checkpoint makes of the reader into one error."""
    with parsing.parsing(path, "a whole checkpoint", _ADVICE):
        yield


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
    group, index = _find_member(read_record(path)["members"], student, seed)
    member = jax.tree.map(lambda x: x[index], _load_group(path, use, group))
    return {"params": member["params"]["student"], **member["model_state"]["student"]}


def read_meta(directory: Path) -> dict[str, Any]:
    """Reads the record of a run's newest checkpoint: step, members, frozen networks.

    Raises:
      UserError: if there is no checkpoint.
    """
    return aliases.renamed(read_record(_newest(directory)), aliases.META)


def read_config(directory: Path) -> dict[str, Any] | None:
    """Returns the configuration in the newest checkpoint's record, as JSON types.

    None if there is no checkpoint, or it is of version 0.1.

    Raises:
      UserError: if it is damaged.
    """
    if not _steps(directory):
        return None
    return read_record(_newest(directory)).get("config")


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
    check_members(directory, read_record(path), groups)
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


def read_record(path: Path) -> dict[str, Any]:
    """Reads the record of one checkpoint.

    Raises:
      UserError: if it is damaged.
    """
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
    meta = read_record(path)
    with _reading(path):
        tree = read_metadata(path / item)[group]
        old = {new: old for old, new in aliases.STATE.items() if old in tree}
        names = {
            "params": "ema" if tree.get("ema") is not None else "params",
            "model_state": old.get("model_state", "model_state"),
        }
        expected = {group: {name: tree[name] for name in names.values()}}
        loaded = read_arrays(path / item, expected)
        check_hashes(meta, {item: loaded})
    return {name: loaded[group][saved] for name, saved in names.items()}


def read_arrays(path: Path, wanted: Any) -> Any:
    """Reads a part of a saved tree, named by its metadata, as NumPy arrays."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), wanted)
    as_numpy = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    return _reader(ocp.PyTreeCheckpointHandler).restore(
        path,
        args=ocp.args.PyTreeRestore(
            shapes, restore_args=as_numpy, partial_restore=True
        ),
    )


def read_metadata(path: Path) -> Any:
    """Reads shapes and dtypes of a saved tree."""
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
