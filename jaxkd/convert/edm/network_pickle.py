"""Reads the pickles of EDM, executing nothing of them.

There a network is a record of its class's name, its source code and its state. The code
is what the official loader executes; here it is dropped unread, and the state is
searched for tensors. Whatever else a pickle asks for is refused by its name.
"""

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.convert.torch import reading
from jaxkd.core import safe_pickle
from jaxkd.core.errors import UserError
from jaxkd.core.safe_pickle import Reader

# Where training scripts and published files put the network; the average first.
_PLACES = ("ema", "net")
_ADVICE = (
    "Only tensors, plain containers and records of persistent classes are read from "
    "EDM's pickles. If you trust whoever wrote it, load it where it was written, and "
    "save net.state_dict() with safetensors."
)


class Module:
    """Stands for a network or a part of one.

    Attributes:
      name: of its class.
      state: its attributes, of which torch's own are ``_parameters``, ``_buffers`` and
        ``_modules``.
    """

    name = ""

    def __init__(self, *_: Any):
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = _dictionary(state)

    def arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments it was made with, as far as they are kept."""
        return dict(_dictionary(self.state.get("_init_kwargs") or {}))

    def part(self, name: str) -> Any:
        """Returns the part of that name, or None."""
        return _dictionary(self.state.get("_modules", {})).get(name)


class _Persistent(Module):
    """Stands for the function that makes an object of its source code."""

    def __init__(self, record: Any):
        record = _dictionary(record)
        if record["type"] != "class" or not isinstance(record["class_name"], str):
            raise ValueError("a persistent object that is of no class")
        self.name = record["class_name"]
        self.state = _dictionary(record["state"])

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a persistent object with a second state")


class _Bytes:
    """Stands for the function that reads a storage out of bytes."""

    __slots__ = ("origin",)

    def __init__(self, origin: str):
        self.origin = origin

    def __call__(self, data: bytes) -> Any:
        if not isinstance(data, bytes):
            raise ValueError("a storage that is not of bytes")
        return reading.read_bytes(data, self.origin)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function with a state")


class Content(NamedTuple):
    """What a file holds.

    Attributes:
      network: the record of the network.
      state: name -> array, as ``network.state_dict()`` would give.
    """

    network: Module
    state: dict[str, np.ndarray]


_STAND_INS: dict[tuple[str, str], Any] = {
    **reading.STAND_INS,
    # After torch's, because here bytes and arrays matter.
    **safe_pickle.STAND_INS,
    reading.PERSISTENT: _Persistent,
    ("dnnlib.util", "EasyDict"): reading.STAND_INS["collections", "OrderedDict"],
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    **{
        ("torch.nn.modules.container", name): Module
        for name in ("ModuleDict", "ModuleList", "Sequential")
    },
}


def read(path: Path) -> Content:
    """Reads a pickle of EDM's networks, published or of a training run.

    Of a training run there are two kinds: ``network-snapshot-*.pkl``, a pickle of the
    average, and ``training-state-*.pt``, which torch wrote, of the network itself.

    Args:
      path: of the file; its name does not matter.

    Raises:
      UserError: if there is no such file, it is damaged, it holds no network, or asks
        for anything but tensors, plain containers and persistent classes.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}. Check the path of the pickle.")
    names = {("torch.storage", "_load_from_bytes"): _Bytes(str(path))}
    try:
        with path.open("rb") as file:
            known = _STAND_INS | names
            if reading.is_archive(path):
                content = reading.read_archive(file, str(path), known, _ADVICE)
            else:
                content = Reader(file, str(path), known, _ADVICE).load()
            network = _find(content, path)
        return Content(network, dict(_tensors(network, "", set())))
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way at all
        raise UserError(
            f"{path} is not a whole pickle of EDM: {type(error).__name__}: {error}. "
            f"It has {path.stat().st_size:,} bytes; download or copy it again."
        ) from error


def is_training_state(path: Path) -> bool:
    """Tells whether torch wrote a file that holds a network and its source code.

    Args:
      path: of any file, which may be missing. What is declared larger than the file is
        not read.
    """
    if not zipfile.is_zipfile(path):
        return False
    damaged = (zipfile.BadZipFile, ValueError)
    with contextlib.suppress(*damaged), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2] == "data.pkl":
                pickle = reading.read_member(archive, name)
                return reading.PERSISTENT[0].encode() in pickle
    return False


def _find(content: Any, path: Path) -> Module:
    candidates = [content]
    if isinstance(content, dict):
        candidates += [content.get(place) for place in _PLACES]
    for candidate in candidates:
        if isinstance(candidate, Module):
            return candidate
    found = f"an object of type {type(content).__name__}"
    if isinstance(content, dict):
        found = "a dictionary of " + ", ".join(map(str, list(content)[:8]))
    raise UserError(
        f"{path} holds {found}. Expected a network, alone or under one of the names "
        f"{', '.join(_PLACES)}."
    )


def _tensors(module: Any, prefix: str, seen: set[int]) -> Iterator:
    """Yields name and array of all tensors of a module and its parts."""
    if not isinstance(module, Module):
        raise ValueError(f"{prefix!r} is no module")
    if id(module) in seen:
        raise ValueError(f"{prefix!r} is a module that is elsewhere, too")
    seen.add(id(module))
    unsaved = module.state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _dictionary(module.state.get(kind, {})).items():
            if tensor is not None and not (kind == "_buffers" and name in unsaved):
                yield f"{prefix}{name}", tensor.value()
    for name, part in _dictionary(module.state.get("_modules", {})).items():
        if part is not None:
            yield from _tensors(part, f"{prefix}{name}.", seen)


def _dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} in place of a dictionary")
    return value
