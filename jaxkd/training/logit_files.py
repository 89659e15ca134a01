"""Logits of every example on disk: all classes, or the most probable ones.

A folder holds what several networks say of one view of each example. It appears when it
is complete, so that a killed writer leaves nothing that could be taken for finished. It
holds a hash of each of its files, so that damage is noticed before it is trained on.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxkd.core import files, integrity, parsing, records

_MANIFEST = "manifest.json"
# Seconds after which what somebody was writing is taken for left behind.
_ABANDONED = 24 * 3600


def write(folder: Path, logits: Mapping[str, np.ndarray], top_k: int = 0) -> None:
    """Writes logits ``[examples, classes]`` by name.

    Args:
      folder: to be made.
      logits: float32.
      top_k: how many classes of each example to keep (see ``top``), or 0 for all.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"{files.TEMPORARY}{folder.name}-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    # Of its own, since runs of several workdirs may share a teacher's folder.
    partial = Path(
        tempfile.mkdtemp(prefix=f"{files.TEMPORARY}{folder.name}-", dir=folder.parent)
    )
    try:
        _write_files(partial, logits, top_k)
        if folder.exists():  # damaged, or another run's, which is as good
            folder.rename(partial / "before")
        partial.rename(folder)
        shutil.rmtree(folder / "before", ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_files(partial: Path, logits: Mapping[str, np.ndarray], top_k: int) -> None:
    for name, values in logits.items():
        if not top_k:
            np.save(partial / f"{name}.npy", values)
            continue
        kept, classes = top(values, top_k)
        np.save(partial / f"{name}.npy", kept)
        np.save(partial / f"{name}.classes.npy", classes)
    hashes = {path.name: integrity.file_hash(path) for path in partial.glob("*.npy")}
    records.write_sealed(partial / _MANIFEST, {"files": hashes})


def problem(folder: Path) -> str:
    """Reads a folder; returns what is wrong with it, or an empty string."""
    try:
        content = records.read_sealed(folder / _MANIFEST, "a manifest", "Delete it.")
        for name, expected in content["files"].items():
            if integrity.file_hash(folder / name) != expected:
                raise ValueError(f"the content of {name} is not what was written")
    except Exception as error:  # it is made again, whatever the reason
        return parsing.reason(error)
    return ""


def bytes_per_example(num_classes: int, top_k: int = 0) -> int:
    """Returns the size on disk of one network's logits on one example."""
    number = 2 if num_classes <= 1 << 16 else 4
    return (4 + number) * top_k + 4 if top_k else 4 * num_classes


class Logits:
    """One network's logits ``[examples, num_classes]``, in a file that is mapped."""

    def __init__(self, folder: Path, name: str, num_classes: int):
        self._values = np.load(folder / f"{name}.npy", mmap_mode="r")
        classes = folder / f"{name}.classes.npy"
        self._classes = np.load(classes, mmap_mode="r") if classes.exists() else None
        self._num_classes = num_classes

    def __getitem__(self, examples: np.ndarray) -> np.ndarray:
        """Returns the logits of some examples, float32."""
        values = self._values[examples]
        if self._classes is None:
            return values
        return expand(values, self._classes[examples], self._num_classes)


def look_up(
    visits: Sequence[Logits], examples: np.ndarray, visit: np.ndarray
) -> np.ndarray:
    """Returns logits ``[..., num_classes]``.

    Args:
      visits: the logits on each view of the examples.
      examples: ``[...]``.
      visit: likewise, which view of each.
    """
    found = [(number, visit == number) for number in np.unique(visit)]
    first = visits[found[0][0]][examples]
    for number, chosen in found[1:]:
        first[chosen] = visits[number][examples[chosen]]
    return first


def top(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the log-probabilities of the most probable classes.

    Args:
      logits: ``[..., classes]``.
      count: classes to keep, fewer than there are.

    Returns:
      Log-probabilities float32 ``[..., count + 1]``, of which the last is what each of
      the other classes has if they share the rest evenly; classes ``[..., count]``,
      uint16, or uint32 of more than 65,536.
    """
    logits = logits.astype(np.float64)
    logits = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=-1)
    rest = ranked[..., count:]
    share = np.logaddexp.reduce(rest, axis=-1, keepdims=True) - np.log(rest.shape[-1])
    kind = np.uint16 if logits.shape[-1] <= 1 << 16 else np.uint32
    values = np.concatenate([ranked[..., :count], share], axis=-1)
    return values.astype(np.float32), order[..., :count].astype(kind)


def expand(values: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns log-probabilities ``[..., num_classes]`` from what ``top`` has kept."""
    full = np.repeat(values[..., -1:], num_classes, axis=-1)
    np.put_along_axis(full, classes.astype(np.intp), values[..., :-1], axis=-1)
    return full
