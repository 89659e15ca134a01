"""Reads the inputs of a prediction: a bad file has a row with the reason, no more.

Tables are whole or not there, and name files whatever bytes their names have.
"""

import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.core.tables import CsvWriter
from jaxkd.readers.listing import shown

OK, UNREADABLE = "ok", "unreadable"
# Bytes of a name, of the 255 that file systems take: numbers and endings are added.
LONGEST_NAME = 200
T = TypeVar("T")


def attempt(read: Callable[[Path], T], path: Path, errors: dict[Path, str]) -> T | None:
    """Returns ``read(path)``, or None and puts the reason into ``errors``."""
    try:
        return read(path)
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        errors[path] = shown(str(error))
        return None


def output_name(path: Path) -> str:
    """Returns a file's name without its ending, as files and pages can have it.

    Longer ones are cut: what is written of a file has a longer name than the file.
    """
    name = shown(path.stem).replace("\\", "_").encode()
    return name[:LONGEST_NAME].decode(errors="ignore")


def output_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Names what is written of each file: as the file, numbered where that is taken."""
    named: dict[str, Path] = {}
    for path in paths:
        stem = name = output_name(path)
        number = 1
        while name in named:
            number, name = number + 1, f"{stem}-{number + 1}"
        named[name] = path
    return named


def write_table(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV file, whole or not at all."""
    files.write_text(path, table(header, rows))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns the text of a CSV file; paths are shown as ``listing.shown`` does."""
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(header)
    for row in rows:
        writer.writerow([shown(v) if isinstance(v, str | Path) else v for v in row])
    return text.getvalue()


def write_status(
    path: Path, inputs: Sequence[Path], errors: Mapping[Path, str]
) -> None:
    """Writes a row for each input: ``file``, ``status`` and ``error``.

    Raises:
      UserError: once it is written, if no input could be read.
    """
    rows = [
        (file, UNREADABLE if file in errors else OK, errors.get(file, ""))
        for file in inputs
    ]
    write_table(path, ("file", "status", "error"), rows)
    require_one(inputs, errors, path)


def require_one(
    inputs: Sequence[Path], errors: Mapping[Path, str], where: Path | None
) -> None:
    """Checks that an input could be read.

    Raises:
      UserError: if none could.
    """
    if len(errors) == len(inputs):
        listed = f" All of them are in {where}." if where else ""
        first = next(iter(errors.values()))
        raise UserError(f"No input could be read, such as: {first}{listed}")


def summary(errors: Mapping[Path, str]) -> str:
    """Returns what to add to the text for the terminal."""
    if not errors:
        return ""
    listed = "".join(f"\n  {error}" for error in errors.values())
    return f"; {len(errors)} could not be read:{listed}"
