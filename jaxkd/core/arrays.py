"""Reads ``.npz`` files of others: sizes are checked before anything is allocated.

A few bytes of an archive can declare arrays of any size. What a member declares is
compared with the bytes that it holds, and all of them together with a limit.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core.parsing import check_declared, parsing, require_file

# Of all arrays of a file together, unpacked.
MAX_BYTES = 1 << 38
# Deflate cannot do better than 1032; what is beyond this is no picture.
MAX_RATIO = 1100
# A header of NumPy's format takes a few hundred bytes.
_MAX_HEADER = 10_000
_CHUNK = 1 << 22


class Npz:
    """An open ``.npz`` file.

    Attributes:
      names: of its arrays.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, what: str, remedy: str):
        self._path, self._archive = path, archive
        self._what, self._remedy = what, remedy
        self.names = [
            name.removesuffix(".npy")
            for name in archive.namelist()
            if name.endswith(".npy")
        ]

    def read(self, name: str) -> np.ndarray:
        """Reads an array to the end of its member, where the checksum is compared.

        Raises:
          UserError: if it is damaged, no plain array, or not of the size it declares.
        """
        where = f"{self._path}: {name}"
        with parsing(where, self._what, self._remedy):
            info = self._archive.getinfo(f"{name}.npy")
            check_declared(where, "bytes", info.file_size, MAX_BYTES, self._remedy)
            limit = MAX_RATIO * max(info.compress_size, 1)
            check_declared(where, "bytes", info.file_size, limit, self._remedy)
            with self._archive.open(info) as member:
                shape, order, dtype = _header(member)
                size = dtype.itemsize * math.prod(shape)
                check_declared(where, "bytes", size, info.file_size, self._remedy)
                data, place = memoryview(bytearray(size)), 0
                while part := member.read(_CHUNK):  # to its end, and no copy of it
                    if place + len(part) <= size:
                        data[place : place + len(part)] = part
                    place += len(part)
            if place != size:
                raise ValueError(f"it has {place:,} bytes of {size:,}")
            return np.frombuffer(data, dtype).reshape(shape, order=order)

    def shape(self, name: str) -> tuple[int, ...]:
        """Reads the shape that an array declares, and not the array.

        Raises:
          UserError: if its header is damaged.
        """
        with (
            parsing(f"{self._path}: {name}", self._what, self._remedy),
            self._archive.open(f"{name}.npy") as member,
        ):
            return _header(member)[0]


def _header(member: Any) -> tuple[tuple[int, ...], Any, np.dtype]:
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"its version of NumPy's format is {version}")
    shape, column_major, dtype = read(member, max_header_size=_MAX_HEADER)
    if dtype.hasobject or any(length < 0 for length in shape):
        raise ValueError("it holds Python objects, which are not read")
    return shape, "F" if column_major else "C", dtype


@contextlib.contextmanager
def open_npz(path: str | Path, what: str, remedy: str) -> Iterator[Npz]:
    """Opens an ``.npz`` file; nothing in it is executed.

    Args:
      path: of the file.
      what: it is expected to be, with its article.
      remedy: what to do if it cannot be read.

    Raises:
      UserError: if it is missing or no such archive.
    """
    path = require_file(path, remedy)
    with contextlib.ExitStack() as stack:
        with parsing(path, what, remedy):
            opened = Npz(path, stack.enter_context(zipfile.ZipFile(path)), what, remedy)
        yield opened


def read_npz(path: str | Path, what: str, remedy: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an ``.npz`` file.

    Raises:
      UserError: if it cannot be read.
    """
    with open_npz(path, what, remedy) as content:
        return {name: content.read(name) for name in content.names}
