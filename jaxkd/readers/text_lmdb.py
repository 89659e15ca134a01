"""Reads lines of text in LMDB folders, as TextZoom keeps them.

``num-samples`` holds their number; record ``i``, counted from 1, is ``image_hr-%09d``,
``image_lr-%09d`` (encoded images; or one alone, ``image-%09d``) and ``label-%09d``.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import images, lmdb_file

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
    """Lines of one LMDB folder; a record is decoded when it is asked for."""

    def __init__(self, folder: Path):
        """Reads the number of lines of a folder.

        Raises:
          UserError: if it is no such folder.
        """
        self.folder = Path(folder)
        self._file = self.folder / "data.mdb"
        if not parsing.is_file(self._file):
            raise UserError(
                f"{self.folder.absolute()} has no data.mdb, expected an LMDB "
                "folder of text lines. Set config.data.root."
            )
        count = self._get(COUNT)
        if count is None or not count.isdigit() or len(count) > 18:
            raise UserError(
                f"{self.folder} has {count!r} as num-samples, expected a number: it is "
                "no LMDB of text lines such as TextZoom's. Set config.data.root."
            )
        self._count = int(count)
        parsing.check_declared(
            *(self._file, "lines", self._count, self._file.stat().st_size),
            "Copy the data set anew, or write the right num-samples.",
        )

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
        with parsing.parsing(self._file, "an LMDB file", "Copy it anew."):
            return lmdb_file.get(self._file, key)

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
