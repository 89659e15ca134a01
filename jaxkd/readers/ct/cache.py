"""Keeps arrays made of files on disk, until any of the files changes."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core.files import user_cache
from jaxkd.readers import listing

# Raised whenever a reader makes another array of the same files.
VERSION = 2


class Cache:
    """Keeps arrays by the files they were made of, and by how they were made."""

    def __init__(self, folder: str | None, made: Any):
        own = user_cache("ct")
        self.folder = Path(folder).expanduser() if folder else own
        self.made = f"{VERSION}|{made!r}"

    def __call__(self, make: Callable[[], np.ndarray], *paths: Path) -> np.ndarray:
        """Returns ``make()``, from disk if it was made of these files before."""
        files = [state for path in paths for state in _states(path)]
        key = "\0".join([*files, self.made])
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        kept = self.folder / f"{digest[:32]}.npy"
        try:
            with kept.open("rb") as file:
                return np.load(file)
        except (OSError, ValueError, EOFError):
            pass
        array = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.{id(array)}.part")
        try:
            with part.open("wb") as file:
                np.save(file, array)
            part.replace(kept)
        except OSError as error:  # a full disk only costs time
            print(f"{kept} cannot be kept: {error}", file=sys.stderr)
            part.unlink(missing_ok=True)
        return array


def _states(path: Path) -> Iterator[str]:
    """Yields path, size and times of change of each file: one that is gone counts.

    Of the times the second tells of what was written and then made to look old.
    """
    if path.is_dir():
        files = listing.below(path)
    else:  # the other half of a NIfTI pair is a part of it
        files = [f for f in sorted(path.parent.glob(f"{path.stem}.*")) if f.is_file()]
        files = [path, *files] if path.suffix in (".hdr", ".img") else [path]
    yield str(path.absolute())
    for file in files:
        state = file.stat() if file.exists() else None
        if state is None:
            yield f"{file}|gone"
        else:
            yield f"{file}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}"
