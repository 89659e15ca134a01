"""Content hashes of what a run has written, so that damage is noticed when it is read.

A flipped bit in a file of numbers is another number. A checkpoint's record holds a hash
of each array, computed before it was written, and a seal over the record itself.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

HASHES, SEAL = "hashes", "seal"
_CHUNK = 1 << 22


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, joined by slashes."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_key(k) for k in path): leaf for path, leaf in flat}


def _key(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def content_hash(tree: Any) -> str:
    """Returns a short hash of a tree's names, shapes and values."""
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(tree).items()):
        _add(digest, name, leaf)
    return digest.hexdigest()[:16]


def leaf_hashes(tree: Any) -> dict[str, str]:
    """Returns a short hash of each leaf's name, shape and values.

    Of arrays that are spread over processes every one has to call this: each is
    gathered in turn.
    """
    hashes = {}
    for name, leaf in sorted(named_leaves(tree).items()):
        digest = hashlib.sha256()
        _add(digest, name, _whole(leaf))
        hashes[name] = digest.hexdigest()[:16]
    return hashes


def _add(digest: Any, name: str, leaf: Any) -> None:
    array = np.ascontiguousarray(leaf)
    digest.update(f"{name}{array.shape}{array.dtype}".encode())
    digest.update(array.reshape(-1).view(np.uint8))


def _whole(leaf: Any) -> Any:
    spread = isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    )
    if not spread:
        return leaf
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def check_leaves(recorded: Mapping[str, str], tree: Any) -> None:
    """Compares leaves with their recorded hashes.

    Raises:
      ValueError: naming a leaf whose content is another, or that has no hash.
    """
    for name, found in leaf_hashes(tree).items():
        if recorded.get(name) != found:
            raise ValueError(f"the content of {name} is not what was written")


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record of JSON types with a hash of the rest of it."""
    rest = {key: value for key, value in record.items() if key != SEAL}
    return rest | {SEAL: _seal(rest)}


def check_seal(record: Mapping[str, Any], required: bool = False) -> None:
    """Compares a record with its seal, if it has one.

    Raises:
      ValueError: if it was changed, or has no seal although one is required.
    """
    if (required or SEAL in record) and record != sealed(record):
        raise ValueError("its content is not what was written")


def _seal(rest: Mapping[str, Any]) -> str:
    text = json.dumps(rest, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Returns a hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:16]
