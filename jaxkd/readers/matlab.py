"""MATLAB files of version 7 or older, read in a process of their own.

SciPy's reader is compiled code that trusts what a file declares: one changed byte can
end the process with a segmentation fault, or ask for all memory. Here that process is a
child with a limit, and its end is an error like any other.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.parsing import parsing, require_file

_CHILD = Path(__file__).with_name("matlab_child.py")
# Bytes that the child may use for what is unpacked and copies of it: so many, and some
# for each byte of the file.
_MEMORY, _PER_BYTE = 256 << 20, 16
_SECONDS = 600


def read_mat(path: Path, names: Sequence[str], advice: str) -> dict[str, np.ndarray]:
    """Reads variables of a MATLAB file; nothing is executed.

    Args:
      path: of the file.
      names: of the variables.
      advice: ends the error message: where to get the file.

    Returns:
      Arrays; structures and cells are arrays of dtype object, with fields or without.

    Raises:
      UserError: if the file is missing, damaged or of another version, or lacks one.
    """
    require_file(path, advice)
    limit = _MEMORY + _PER_BYTE * path.stat().st_size
    command = [sys.executable, "-I", str(_CHILD), str(path), str(limit), *names]
    with parsing(path, "a MATLAB file of version 7 or older", advice):
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS)
        if done.returncode:
            raise ValueError(
                f"the process that read it ended with status {done.returncode}"
            )
        start = done.stdout.index(b"\n") + 1
        end = start + int(done.stdout[:start])
        described = json.loads(done.stdout[start:end])
        data = memoryview(done.stdout)[end:]
        if "error" in described:
            raise ValueError(described["error"])
        stream = _Stream(data)
        found = {name: _build(one, stream) for name, one in described.items()}
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{path} has no variable {missing[0]!r}. {advice}")
    return found


class _Stream:
    def __init__(self, data: memoryview):
        self._data, self._place = data, 0

    def take(self, count: int, dtype: np.dtype) -> np.ndarray:
        place, self._place = self._place, self._place + count * dtype.itemsize
        return np.frombuffer(self._data, dtype, count, place)


def _build(described: dict[str, Any], stream: _Stream) -> np.ndarray:
    """Undoes the child's ``_describe``."""
    shape = tuple(described["shape"])
    if "dtype" in described:
        dtype = np.dtype(described["dtype"])
        size = int(np.prod(shape, dtype=np.int64))
        return stream.take(size, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    if "text" in described:
        return np.array(described["text"], np.str_).reshape(shape)
    if "fields" in described:
        fields = described["fields"]
        array = np.empty(shape, [(name, object) for name in fields])
        for name, one in fields.items():
            array[name] = _build(one, stream)
        return array
    array = np.empty(len(described["cells"]), object)
    for place, one in enumerate(described["cells"]):
        array[place] = _build(one, stream)
    return array.reshape(shape)
