"""A reader of pickles that other people wrote, to which only given names exist.

A pickle is a program that may call any function by name. Here the few names that a
format needs stand for inert recorders of the library's own; every other name is
refused before it is even imported. ``read_arrays`` knows the names of NumPy's arrays:
not even NumPy's own constructors are called with a file's data before they are checked.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from jaxkd.core.errors import UserError

DTYPES = re.compile(r"[uif][1248]|b1")


class Reader(pickle.Unpickler):
    """Unpickles with stand-ins.

    A stand-in has to bear that a pickle calls it, makes an instance of it without
    calling it, and sets the state of either.
    """

    def __init__(
        self,
        file: BinaryIO | io.BytesIO,
        origin: str,
        stand_ins: Mapping[tuple[str, str], Any],
        advice: str,
        encoding: str = "utf-8",
    ):
        """Prepares to read.

        Args:
          file: positioned at the pickle.
          origin: the file's name, for error messages.
          stand_ins: (module, name) -> what stands for it.
          advice: ends the message that refuses another name: what is read from
            pickles, and what to do.
          encoding: of text that Python 2 wrote.
        """
        super().__init__(file, encoding=encoding)
        self._file = file
        self.origin, self.stand_ins, self.advice = origin, stand_ins, advice

    def load(self) -> Any:
        """Reads one pickle, after its instructions have been looked through.

        Raises:
          UserError: if it asks for something that has no stand-in, or for more memory
            than its bytes can fill.
        """
        place = self._file.tell()
        _check_memo(self._file)
        self._file.seek(place)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in.

        Raises:
          UserError: if there is none.
        """
        if (module, name) not in self.stand_ins:
            raise UserError(
                f"{self.origin} was refused: it asks for {module}.{name}, and nothing "
                f"of it was executed. {self.advice}"
            )
        return self.stand_ins[module, name]


def _check_memo(file: BinaryIO | io.BytesIO) -> None:
    """Looks through a pickle's instructions without executing them.

    Nine bytes can ask for a memo of four billion places, all of which are made.
    ``pickletools`` compares the lengths of strings with the bytes that are there.

    Raises:
      ValueError: if an index of the memo is beyond the instructions so far.
    """
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if instruction.name in _PUTS and int(argument or 0) > count + _SPARE:
            raise ValueError(f"instruction {count} asks for {argument:,} places")


_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_SPARE = 1024


class _DType:
    def __init__(self, name: str | bytes, *_: Any):
        self.name = name.decode("ascii") if isinstance(name, bytes) else name
        self.order = "|"

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else order


class _Array:
    """Stands for ``numpy.ndarray`` and for the function that makes an empty one."""

    def __init__(self, *_: Any):
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def value(self) -> np.ndarray:
        _, shape, dtype, column_major, data = self.state
        if not DTYPES.fullmatch(dtype.name) or dtype.order not in ("|", "<", ">", "="):
            raise ValueError(f"an array of dtype {dtype.name!r}")
        plain = np.frombuffer(data, np.dtype(dtype.name).newbyteorder(dtype.order))
        return plain.reshape(shape, order="F" if column_major else "C")


class _Encode:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""

    __slots__ = ()  # so that a pickle cannot change it

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"bytes in the encoding {encoding!r}")
        return text.encode("latin1")


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Encode(),
}


_ADVICE = (
    "Only plain NumPy arrays are read from pickles. If you trust whoever wrote it, "
    "save the arrays with numpy.savez."
)


def read_arrays(data: bytes, origin: str) -> dict[str, Any]:
    """Reads a pickled dictionary of arrays, lists, numbers and strings.

    Args:
      data: the pickle.
      origin: the file it comes from, for error messages.

    Returns:
      The dictionary, its keys as text.

    Raises:
      UserError: if the pickle asks for anything but arrays, is damaged, or is no
        dictionary.
    """
    try:
        reader = Reader(io.BytesIO(data), origin, STAND_INS, _ADVICE, encoding="bytes")
        content = reader.load()
        return {
            key.decode() if isinstance(key, bytes) else key: (
                value.value() if isinstance(value, _Array) else value
            )
            for key, value in content.items()
        }
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise UserError(
            f"{origin} is not a whole pickled dictionary of arrays: "
            f"{type(error).__name__}: {error}. It has {len(data):,} bytes."
        ) from error
