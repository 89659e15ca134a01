"""Opens DICOM files by their content, and checks what they declare before that."""

import warnings
import zlib
from pathlib import Path
from typing import Any

from jaxkd.core import optional

# Bytes that a byte of a deflated file, and pixels that a byte of any, can stand for;
# slices are deflated to a half or a tenth, and blank ones packed to a five-hundredth.
_DEFLATED, _PACKED = 20, 1100


def library() -> Any:
    """Imports pydicom.

    Raises:
      UserError: if it is not installed.
    """
    return optional.load("pydicom", extra="medical", purpose="DICOM files")


def load(path: Path, **options: Any) -> Any:
    """Calls ``pydicom.dcmread`` without its warnings of odd values in other tags.

    Raises:
      Exception: of any kind, for a damaged file, or one that unpacks to far more bytes
        than slices do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_deflated(path)
        data = library().dcmread(path, force=not has_magic(path), **options)
    meta = data.file_meta
    if "TransferSyntaxUID" not in meta and data.original_encoding != (None, None):
        meta.TransferSyntaxUID = _plain_syntax(*data.original_encoding)
    return data


def _plain_syntax(implicit: bool, little: bool) -> str:
    """Names how a file without a name for it is written; such are uncompressed."""
    uid = library().uid
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _check_deflated(path: Path) -> None:
    """Unpacks a deflated file piece by piece, which pydicom does at once.

    Raises:
      ValueError: if it unpacks to more than ``_DEFLATED`` bytes for each byte.
    """
    if not has_magic(path):
        return
    with path.open("rb") as file:
        meta = library().filereader.read_file_meta_info(path)
        if (
            meta.get("TransferSyntaxUID")
            != library().uid.DeflatedExplicitVRLittleEndian
        ):
            return
        file.seek(144 + meta.FileMetaInformationGroupLength)
        packed = file.read()
    unpacker, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    limit = _DEFLATED * len(packed) + (1 << 24)
    while packed and not unpacker.eof:
        total += len(unpacker.decompress(packed, 1 << 22))
        packed = unpacker.unconsumed_tail
        if total > limit:
            raise ValueError(f"it unpacks to more than {limit:,} bytes")


def check_pixels(path: Path, data: Any) -> None:
    """Compares the pixels that a header declares with the bytes of the file.

    Raises:
      ValueError: if there are far more than compressed slices have.
    """
    declared = int(data.Rows) * int(data.Columns) * int(data.get("NumberOfFrames") or 1)
    most = (1 << 24) + _PACKED * path.stat().st_size
    if declared > most:
        raise ValueError(f"it declares {declared:,} pixels, expected at most {most:,}")


def has_magic(path: Path) -> bool:
    """Tells whether a file begins as DICOM files should; older ones do not."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
