"""Parsing of bytes that others wrote: whatever goes wrong is one error for the user.

A damaged file makes a library raise any exception at all: of its own kinds, of those
of the libraries below it, ``MemoryError``, ``RecursionError``. No list of them is ever
complete, so that none is kept: ``parsing`` turns every one into a ``UserError`` with
the file, the reason and the remedy. Only the call that parses belongs into its block;
what is done with the result stays outside, where a mistake of our own is still seen as
one.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from jaxkd.core.errors import UserError

# Text formats are read whole; no list or record that the library reads is larger.
MAX_TEXT = 1 << 30


@contextlib.contextmanager
def parsing(origin: Any, what: str, remedy: str) -> Iterator[None]:
    """Turns any exception of the block into a ``UserError``.

    Args:
      origin: the file, or a name for where the bytes are from.
      what: the file is expected to be, with its article: "an .npz file".
      remedy: one or more sentences: what to do about it.

    Raises:
      UserError: for any exception; one that is a ``UserError`` is passed on.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        _refuse(origin, what, remedy, error)
    except BaseException as error:
        # Libraries written in Rust panic with an exception that is no ``Exception``.
        if type(error).__name__ != "PanicException":
            raise
        _refuse(origin, what, remedy, error)


def _refuse(origin: Any, what: str, remedy: str, error: BaseException) -> NoReturn:
    size = _size(origin)
    raise UserError(
        f"{_printable(origin)} cannot be read as {what}: {reason(error)}"
        f"{'' if size is None else f' ({size:,} bytes)'}. {remedy}"
    ) from error


def reason(error: BaseException, limit: int = 200) -> str:
    """Returns why something failed: one line, of bounded length, never empty."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _printable(" ".join(str(error).split()))
    text = text if len(text) <= limit else text[: limit - 4] + " ..."
    name = type(error).__name__
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return (
        text.rstrip(".")
        if isinstance(error, ValueError) and text
        else (f"{name}: {text.rstrip('.')}" if text else name)
    )


def _printable(text: Any) -> str:
    """Escapes what a terminal would obey or cannot encode."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
    )


def _size(origin: Any) -> int | None:
    try:
        return Path(origin).stat().st_size if Path(origin).is_file() else None
    except (OSError, TypeError, ValueError):
        return None


def require_file(path: str | Path, remedy: str) -> Path:
    """Returns the path of an ordinary file, so that no pipe or device is waited for.

    Raises:
      UserError: if there is none, or it is something else.
    """
    path = Path(path)
    with parsing(path, "a file", remedy):  # names may be too long, or hold a NUL
        if not path.exists():
            raise UserError(f"{_printable(path)} does not exist. {remedy}")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe, a device or a socket"
            raise UserError(
                f"{_printable(path)} is {kind}, expected an ordinary file. {remedy}"
            )
    return path


def is_file(path: Path) -> bool:
    """Tells whether there is a file of that name, which may be no possible name."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def exists(path: Path) -> bool:
    """Tells whether there is something of that name; see ``is_file``."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def beside(path: Path, name: str) -> Path:
    """Returns what a list names: relative to its folder, with ``~`` expanded."""
    return path.parent / os.path.expanduser(name)


def read_text(path: str | Path, what: str, remedy: str) -> str:
    """Reads a text file in UTF-8, with or without a byte order mark.

    Raises:
      UserError: if it is missing, no ordinary file, larger than ``MAX_TEXT``, or no
        text.
    """
    path = require_file(path, remedy)
    check_declared(path, "bytes of text", path.stat().st_size, MAX_TEXT, remedy)
    with parsing(path, what, remedy):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: str | Path, what: str, remedy: str) -> Any:
    """Reads a JSON file; numbers that JSON does not have (NaN) are refused.

    Raises:
      UserError: if it is missing or damaged.
    """
    text = read_text(path, what, remedy)
    with parsing(path, what, remedy):
        return parse_json(text)


def parse_json(text: str | bytes) -> Any:
    """Parses JSON strictly: without NaN, infinities and the like.

    Raises:
      Exception: of any kind; wrap it by ``parsing``.
    """
    return json.loads(text, parse_constant=_no_number)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def read_rows(path: str | Path, what: str, remedy: str) -> list[list[str]]:
    """Reads the rows of a CSV file that are not empty.

    Raises:
      UserError: if it is missing or damaged.
    """
    text = read_text(path, what, remedy)
    with parsing(path, what, remedy):
        return [row for row in csv.reader(io.StringIO(text)) if row]


def check_cells(row: Mapping[Any, Any], origin: Any) -> None:
    """Checks that a row of a CSV file has no more cells than there are columns.

    Args:
      row: as ``csv.DictReader`` gives it, which puts further cells under None.
      origin: the file and the line.

    Raises:
      UserError: if it has more.
    """
    if None in row:
        columns = len(row) - 1
        raise UserError(
            f"{origin}: {columns + len(row[None])} cells, expected {columns}, one for "
            "each column. Put a path with commas between quotation marks."
        )


def check_declared(
    origin: Any, unit: str, declared: int, limit: int, remedy: str
) -> None:
    """Checks a size that a file declares, before anything of that size is made.

    Args:
      origin: the file.
      unit: what is counted, such as "bytes" or "pixels".
      declared: how many the file says that it holds.
      limit: how many there can be, or are accepted.
      remedy: what to do.

    Raises:
      UserError: if it declares more.
    """
    if not 0 <= declared <= limit:
        raise UserError(
            f"{_printable(origin)} declares {declared:,} {unit}, expected at most "
            f"{limit:,}. {remedy}"
        )
