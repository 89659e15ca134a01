"""Files of JSON lines that are only appended to, and survive whatever ends a run."""

import json
from pathlib import Path
from typing import Any

from jaxkd.core.errors import UserError


def line(row: dict[str, Any]) -> bytes:
    """Returns a row as one line, to be written at once."""
    return json.dumps(row, sort_keys=True).encode() + b"\n"


def read(path: Path, remedy: str) -> list[dict[str, Any]]:
    """Reads all rows, and cuts off a torn last line.

    Args:
      path: the file; without it there are no rows.
      remedy: a sentence: what to do about a damaged line.

    Raises:
      UserError: if an earlier line is damaged.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows = []
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}, is not JSON ({error}). {remedy}"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}, is no JSON object. {remedy}")
        rows.append(row)
    return rows
