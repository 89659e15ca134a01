"""Reads lines of text in LMDB folders, as TextZoom keeps them.

``num-samples`` holds their number; record ``i``, counted from 1, is ``image_hr-%09d``,
``image_lr-%09d`` (encoded images; or one alone, ``image-%09d``) and ``label-%09d``.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.readers import images

COUNT = b"num-samples"


class Line(NamedTuple):
    """A line of text.

    Attributes:
      image: uint8 ``[height, width, 3]``.
      low: the same line, smaller, of any size; None where there is none.
      text: what is written.
    """

    image: np.ndarray
    low: np.ndarray | None
    text: str


class TextLmdb:
    """Lines of one LMDB folder; a record is decoded when it is asked for.

    The file is opened anew by each process that reads it, as LMDB requires.
    """

    def __init__(self, folder: Path):
        """Opens a folder and reads the number of lines.

        Raises:
          UserError: if it is no such folder.
        """
        self.folder = Path(folder)
        self._environment: Any = None
        self._owner = -1
        count = self._get(COUNT)
        if count is None or not count.isdigit():
            raise UserError(
                f"{self.folder} has {count!r} as num-samples, expected a number: it is "
                "no LMDB of text lines such as TextZoom's. Set config.data.root."
            )
        self._count = int(count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Line:
        """Reads line ``index``, counted from 0.

        Raises:
          UserError: if the record is missing or damaged.
        """
        number = f"{index + 1:09d}".encode()
        large = self._get(b"image_hr-" + number) or self._get(b"image-" + number)
        label = self._get(b"label-" + number)
        if large is None or label is None:
            missing = "an image" if large is None else "a label"
            raise UserError(
                f"{self.folder}: record {index + 1} of {self._count} lacks {missing}. "
                "Copy the data set anew, or write the right num-samples."
            )
        small = self._get(b"image_lr-" + number)
        return Line(
            self._decode(large, index),
            None if small is None else self._decode(small, index),
            self._text(label, index),
        )

    def _get(self, key: bytes) -> bytes | None:
        if self._owner != os.getpid():
            lmdb = optional.load("lmdb", extra="text", purpose="LMDB folders of text")
            if not (self.folder / "data.mdb").is_file():
                raise UserError(
                    f"{self.folder.absolute()} has no data.mdb, expected an LMDB "
                    "folder of text lines. Set config.data.root."
                )
            try:
                self._environment = lmdb.open(
                    str(self.folder), readonly=True, lock=False, readahead=False
                )
            except lmdb.Error as error:
                raise UserError(
                    f"{self.folder / 'data.mdb'} cannot be read: {error}. Copy it anew."
                ) from error
            self._owner = os.getpid()
        with self._environment.begin() as transaction:
            return transaction.get(key)

    def _decode(self, encoded: bytes, index: int) -> np.ndarray:
        origin = f"{self.folder}: the image of record {index + 1}"
        return images.decode_bytes(encoded, origin, remedy="Copy the data set anew.")

    def _text(self, label: bytes, index: int) -> str:
        try:
            return label.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.folder}: the label of record {index + 1} is {label!r}, "
                f"expected UTF-8 ({error})."
            ) from error
