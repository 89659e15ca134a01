"""Files that are whole or not there: written beside their place, then renamed."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

# Begins the names of files that are being written; what a killed process leaves.
TEMPORARY = ".tmp-"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to, which replaces ``path`` in one step afterwards.

    It ends like ``path``, so that libraries choose the same format. Readers see the
    old content or the new, never less; after an error the old is still there.

    Args:
      path: the file; its folder must exist.
    """
    path = Path(path)
    # In the same folder, because a rename is atomic within one file system only.
    mark = f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f"{mark}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replaces a file's content by text, in UTF-8 and with its line ends unchanged."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces a file's content by bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Replaces a file by one of safetensors, which has the permissions of new files.

    The library's own writer makes files that nobody but their owner may read.
    """
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(one) for name, one in tensors.items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, metadata)
        temporary.chmod(mode)


def user_cache(*parts: str) -> Path:
    """Returns a folder of the user's cache; it is not made.

    Args:
      *parts: of its path below the library's own folder there.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).joinpath("jaxkd", *parts)


def sweep(*folders: Path) -> None:
    """Deletes what killed processes were writing into folders, not below them.

    The folders must be this process's own: another one's unfinished files would go.
    """
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            ours = path.name.startswith(TEMPORARY)
            # Those of versions before 0.2, and those of Orbax.
            ours |= path.name.startswith(".") and path.name.endswith(".tmp")
            if ours or ".orbax-checkpoint-tmp" in path.name:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
