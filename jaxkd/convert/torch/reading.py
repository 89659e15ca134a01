"""Reads files of ``torch.save`` without torch, executing nothing of them.

Both layouts are read: the zip archive of torch 1.6 and later, and the sequence of
pickles before it, in which most published teachers are stored. Tensors become NumPy
arrays wherever they lay (a GPU, another machine's GPU).
"""

import io
import math
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.safe_pickle import Reader

_ZIP = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ADVICE = (
    "Only tensors and plain containers are read from torch files. If it is a whole "
    "pickled model, write model.state_dict() with torch.save instead."
)


class _StorageType(NamedTuple):
    dtype: np.dtype


class _Storage:
    """A flat array that tensors are cut from; its data are read after the pickle."""

    def __init__(self, dtype: np.dtype, count: int):
        self.dtype, self.count = dtype, count
        self.data = np.empty(0, dtype)

    def fill(self, data: bytes) -> None:
        self.data = np.frombuffer(data, self.dtype.newbyteorder("<"))


_REPEATED = 1 << 24


class Tensor:
    """Stands for torch's functions that rebuild a tensor."""

    def __init__(self, storage, offset, size, stride, *_: Any):
        self.layout = (storage, offset, size, stride)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a tensor with a state")

    def value(self) -> np.ndarray:
        """Returns the tensor as an array, after checking that it lies in its storage.

        Raises:
          ValueError: if it does not.
        """
        storage, offset, size, stride = self.layout
        inside = isinstance(storage, _Storage) and len(size) == len(stride)
        if not inside or min((offset, *size, *stride)) < 0:
            raise ValueError("a tensor of impossible shape")
        reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if all(size) and offset + reach >= storage.count:
            raise ValueError("a tensor that is larger than its storage")
        # A step of 0 repeats a number, which a few bytes can do without end.
        if math.prod(size) > max(storage.count, _REPEATED):
            raise ValueError(f"a tensor of {tuple(size)} with {storage.count} numbers")
        return np.lib.stride_tricks.as_strided(
            storage.data[offset:],
            tuple(size),
            tuple(step * storage.dtype.itemsize for step in stride),
            writeable=False,
        )


class _Parameter:
    """Stands for the function that makes a parameter of a tensor."""

    def __new__(cls, tensor: Any, *_: Any) -> Any:
        """Returns the tensor itself."""
        return tensor

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a parameter with a state")


class _Dict(dict):
    """Stands for an ordered dictionary; what torch attaches to it is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Ignored:
    """Stands for what is read but not used, such as the options of the training."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_DTYPES = {
    "Double": "f8",
    "Float": "f4",
    "Half": "f2",
    "BFloat16": jnp.bfloat16,
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}

_TORCH_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "bool"),
    *("int64", "int32", "int16", "int8", "uint8"),
)

# The function by which EDM's files make an object of its source code.
PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")
STAND_INS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): _Dict,
    ("argparse", "Namespace"): _Ignored,
    # Milestones of a schedule; where and how tensors lay.
    ("collections", "Counter"): _Ignored,
    ("torch", "device"): _Ignored,
    **{("torch", name): _Ignored for name in _TORCH_DTYPES},
    # NumPy's scalars, in which some scripts keep the accuracy.
    ("numpy.core.multiarray", "scalar"): _Ignored,
    ("numpy._core.multiarray", "scalar"): _Ignored,
    ("numpy", "dtype"): _Ignored,
    ("_codecs", "encode"): _Ignored,
    **{
        (module, f"{name}Storage"): _StorageType(np.dtype(dtype))
        for module in ("torch", "torch.cuda")
        for name, dtype in _DTYPES.items()
    },
}


class _TorchReader(Reader):
    def __init__(
        self,
        file: BinaryIO | io.BytesIO,
        origin: str,
        stand_ins: Mapping[tuple[str, str], Any] = STAND_INS,
        advice: str = _ADVICE,
    ):
        super().__init__(file, origin, stand_ins, advice)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in; names what reads the networks of EDM.

        Raises:
          UserError: if there is none.
        """
        if (module, name) == PERSISTENT and PERSISTENT not in self.stand_ins:
            raise UserError(
                f"{self.origin} holds a whole network as EDM's training-state-*.pt do, "
                "expected a state dictionary. Read it by jaxkd.convert.edm.load."
            )
        return super().find_class(module, name)

    def persistent_load(self, saved_id: Any) -> _Storage:
        """Returns the storage that a tensor names; where it lay does not matter."""
        kind, storage_type, key, _, count, *view = saved_id
        if kind != "storage" or view not in ([], [None]) or count < 0:
            raise ValueError(f"an object of kind {kind!r}")
        storage = _Storage(storage_type.dtype, count)
        return self.storages.setdefault(key, storage)


def read(path: Path) -> Any:
    """Reads a file that torch wrote, or a ``.safetensors`` file.

    Args:
      path: of the file; its name does not matter.

    Returns:
      What was saved, with a ``Tensor`` in place of every tensor; arrays, if the file
      is of safetensors.

    Raises:
      UserError: if it is no such file, is damaged, or asks for anything but tensors
        and plain containers.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}. Check the path of the checkpoint.")
    try:
        return _reader_of(path)(path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way at all
        raise UserError(
            f"{path} is not a whole torch checkpoint: {type(error).__name__}: {error}. "
            f"It has {path.stat().st_size:,} bytes; download or copy it again."
        ) from error


def _reader_of(path: Path) -> Callable[[Path], Any]:
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_ZIP):
        return _opened(read_archive)
    if start[8:9] == b"{":
        return _read_safetensors
    if tarfile.is_tarfile(path):
        raise UserError(
            f"{path} is a tar archive. Unpack it, and give one of the checkpoints in "
            "it, such as resnet32x4_vanilla/ckpt_epoch_240.pth."
        )
    return _opened(_read_legacy)


def read_bytes(data: bytes, origin: str) -> Any:
    """Reads what ``torch.save`` wrote to memory, as ``read`` reads a file of it.

    Args:
      data: the content of such a file, of either layout.
      origin: the file it is part of, for error messages.

    Raises:
      UserError: if it asks for anything but tensors and plain containers.
      Exception: any at all, if it is damaged.
    """
    reader = read_archive if data.startswith(_ZIP) else _read_legacy
    return reader(io.BytesIO(data), origin)


def _opened(reader: Callable[[BinaryIO, str], Any]) -> Callable[[Path], Any]:
    def read_file(path: Path) -> Any:
        with path.open("rb") as file:
            return reader(file, str(path))

    return read_file


def is_archive(path: Path) -> bool:
    """Tells whether a file is a zip archive, such as ``torch.save`` writes."""
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def read_archive(
    file: BinaryIO | io.BytesIO,
    origin: str,
    stand_ins: Mapping[tuple[str, str], Any] = STAND_INS,
    advice: str = _ADVICE,
) -> Any:
    """Reads the zip archive of torch 1.6 and later.

    Args:
      file: the archive.
      origin: its name, for error messages.
      stand_ins: what may be asked for; see ``safe_pickle.Reader``.
      advice: likewise.

    Raises:
      UserError: if it asks for something else, or is a TorchScript file.
      Exception: any at all, if it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        if any(n.rpartition("/")[2] == "constants.pkl" for n in archive.namelist()):
            raise UserError(
                f"{origin} is a TorchScript file (torch.jit.save), which holds a "
                "program, expected a state dictionary. Load it with torch.jit.load, "
                "and save model.state_dict() with torch.save."
            )
        pickles = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"]
        compressed = any(member.compress_type for member in archive.infolist())
        if len(pickles) != 1 or compressed:
            raise ValueError("a zip archive that torch.save did not write")
        prefix = pickles[0].removesuffix("data.pkl")
        order = prefix + "byteorder"
        if order in archive.namelist() and read_member(archive, order) != b"little":
            raise ValueError("written on a big-endian machine")
        data = io.BytesIO(read_member(archive, pickles[0]))
        reader = _TorchReader(data, origin, stand_ins, advice)
        content = reader.load()
        for key, storage in reader.storages.items():
            name = f"{prefix}data/{key}"
            _check_size(archive.getinfo(name).file_size, storage)
            storage.fill(read_member(archive, name))
    return content


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Reads a file of an archive that torch wrote, which compresses nothing.

    Args:
      archive: open for reading.
      name: of the file in it.

    Raises:
      ValueError: if it is compressed, or declares more bytes than the archive has.
      KeyError: if there is no such file.
      Exception: any at all, if the archive is damaged.
    """
    member = archive.getinfo(name)
    if member.compress_type:
        raise ValueError("a zip archive that torch.save did not write")
    assert archive.fp is not None
    size = archive.fp.seek(0, io.SEEK_END)
    if max(member.file_size, member.compress_size) > size:
        raise ValueError(
            f"{name} declares {member.file_size:,} bytes in an archive of {size:,}"
        )
    return archive.read(member)


def _read_legacy(file: BinaryIO, origin: str) -> Any:
    magic = _TorchReader(file, origin).load()
    protocol = _TorchReader(file, origin).load()
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise ValueError("it does not begin as torch's files do")
    if not _TorchReader(file, origin).load()["little_endian"]:
        raise ValueError("written on a big-endian machine")
    reader = _TorchReader(file, origin)
    content = reader.load()
    keys = _TorchReader(file, origin).load()
    if set(keys) != set(reader.storages):
        raise ValueError("tensors without data")
    for key in keys:
        storage = reader.storages[key]
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise ValueError("tensors with the data of others")
        data = file.read(storage.count * storage.dtype.itemsize)
        _check_size(len(data), storage)
        storage.fill(data)
    return content


def _check_size(size: int, storage: _Storage) -> None:
    wanted = storage.count * storage.dtype.itemsize
    if size != wanted:
        raise ValueError(f"{size} bytes of data for a tensor of {wanted}")


def _read_safetensors(path: Path) -> Mapping[str, np.ndarray]:
    # Imported here, because most files are torch's.
    from safetensors.numpy import load_file

    return load_file(path)
