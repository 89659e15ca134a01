"""Reads which image is of which class from a list beside a flat folder of images.

- Tiny-ImageNet: ``val/val_annotations.txt`` beside ``val/images/``;
- ImageNet and others: ``val.csv`` or ``val.txt`` beside ``val/``, with a path and a
  label on each line, apart by a comma, a tab or a space; a heading ``path,label`` is
  left out.
"""

import csv
from pathlib import Path

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import listing

TINY = "val_annotations.txt"
_HEADINGS = ("path", "file", "filename", "image")
_REMEDY = "Expected a path and a label on each line."


def list_of(split: Path) -> Path | None:
    """Returns the list that a split has, if it has no class folders."""
    if (split / TINY).is_file():
        return split / TINY
    if split.is_dir() and any((split / n).is_dir() for n in listing.entries(split)):
        return None
    beside = (split.with_name(f"{split.name}{ending}") for ending in (".csv", ".txt"))
    return next((path for path in beside if path.is_file()), None)


def read(split: Path, path: Path) -> dict[str, list[str]]:
    """Reads a list: class -> paths of its images.

    Args:
      split: folder that paths are relative to; else they are to the list's.
      path: of the list.

    Raises:
      UserError: if it cannot be read, or an image is missing or listed twice.
    """
    text = parsing.read_text(path, "a list of images", _REMEDY)
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = _cells(line)
        if number == 1 and row[0].lower() in _HEADINGS:
            continue
        if len(row) < 2 or not row[0] or not row[1]:
            raise UserError(f"{path}, line {number}, is {line!r}. {_REMEDY}")
        folders = (split / "images", split, path.parent)
        places = [folder / row[0] for folder in folders]
        image = next((str(place) for place in places if place.is_file()), None)
        if image is None:
            raise UserError(
                f"{path}, line {number}: {row[0]} is not there, expected it in {split} "
                f"or {path.parent}."
            )
        if image in seen:
            raise UserError(f"{path}, line {number}: {row[0]} is listed twice.")
        seen.add(image)
        found.setdefault(row[1], []).append(image)
    if not found:
        raise UserError(f"{path} lists no images. {_REMEDY}")
    return found


def _cells(line: str) -> list[str]:
    if "\t" in line:
        return [cell.strip() for cell in line.split("\t")]
    if "," in line:
        return [cell.strip() for cell in next(csv.reader([line]))]
    return line.rsplit(maxsplit=1)
