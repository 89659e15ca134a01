"""Writes files that ``torch.load`` opens, without torch.

The file is a zip archive with one pickle, in which tensors name their data, and one
member of raw data for each. The pickle is written out instruction by instruction:
Python's own writer would have to import torch to name its functions.
"""

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}


def write(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes ``{"model": state}``, as the training scripts of published teachers do.

    Args:
      path: of the file, which is replaced if it exists.
      state: name -> float32 or int64 array, in the order to keep.
    """
    state = {
        name: np.asarray(array, array.dtype.newbyteorder("<"))
        for name, array in state.items()
    }
    members = {
        "data.pkl": _pickle(state),
        "byteorder": b"little",
        **{f"data/{i}": array.tobytes() for i, array in enumerate(state.values())},
        "version": b"3\n",
    }
    part = path.with_name(path.name + ".part")
    with zipfile.ZipFile(part, "w") as archive:
        for name, data in members.items():
            # Without the date, so that equal weights make equal files.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    part.replace(path)


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    items = [
        _text(name) + _tensor(str(index), array)
        for index, (name, array) in enumerate(arrays.items())
    ]
    state = _ordered_dict() + pickle.MARK + b"".join(items) + pickle.SETITEMS
    content = pickle.EMPTY_DICT + _text("model") + state + pickle.SETITEM
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _tensor(key: str, array: np.ndarray) -> bytes:
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    storage = _tuple(
        _text("storage"),
        _global("torch", _STORAGES[array.dtype.name]),
        _text(key),
        _text("cpu"),
        _integer(array.size),
    )
    arguments = _tuple(
        storage + pickle.BINPERSID,
        _integer(0),
        _tuple(*map(_integer, array.shape)),
        _tuple(*map(_integer, strides)),
        pickle.NEWFALSE,
        _ordered_dict(),
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _ordered_dict() -> bytes:
    name = _global("collections", "OrderedDict")
    return name + pickle.EMPTY_TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _text(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)
