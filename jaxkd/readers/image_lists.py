"""Reads which image is of which class from a list beside a flat folder of images.

- Tiny-ImageNet: ``val/val_annotations.txt`` beside ``val/images/``;
- ImageNet and others: ``val.csv`` or ``val.txt`` beside ``val/``, with a path and a
  label on each line, apart by a comma, a tab or a space; of a heading such as
  ``path,label`` the names tell which column is which.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import listing
from jaxkd.readers.images import SUFFIXES

TINY = "val_annotations.txt"
_PATHS = ("path", "file", "filename", "file_name", "image", "image_id", "id", "name")
_LABELS = ("label", "class", "class_name", "category", "target", "label_name")
_INSIDE = "images"
_REMEDY = (
    "Expected a path and a label on each line; a heading such as path,label tells them "
    "from other columns."
)


def list_of(split: Path) -> Path | None:
    """Returns the list that a split has, if it has no class folders."""
    if (split / TINY).is_file():
        return split / TINY
    inside = listing.entries(split) if split.is_dir() else []
    if any((split / name).is_dir() and name != _INSIDE for name in inside):
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
    columns: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = _cells(line)
        if number == 1 and (named := _heading(row)):
            columns = named
            continue
        many = path.name != TINY and len(row) > 2 and columns is None
        first, second = columns or (0, 1)
        if many or len(row) <= max(first, second) or not row[first] or not row[second]:
            raise UserError(f"{path}, line {number}, is {line!r}. {_REMEDY}")
        name, label = row[first], row[second]
        places = [split / _INSIDE / name, split / name, parsing.beside(path, name)]
        image = next((str(p) for p in places if parsing.is_file(p)), None)
        if image is None:
            raise UserError(
                f"{path}, line {number}: {name} is not there, expected it in {split} "
                f"or {path.parent}."
            )
        if not name.lower().endswith(SUFFIXES):
            raise UserError(
                f"{path}, line {number}: {name} is not an image by its name, expected "
                f"one of {', '.join(SUFFIXES)}."
            )
        if image in seen:
            raise UserError(f"{path}, line {number}: {name} is listed twice.")
        seen.add(image)
        found.setdefault(label, []).append(image)
    if not found:
        raise UserError(f"{path} lists no images. {_REMEDY}")
    return found


def unlisted(split: Path, listed: Mapping[str, list[str]]) -> list[Path]:
    """Returns the images below a split's folder that its list does not name."""
    known = {path for paths in listed.values() for path in paths}
    found = listing.below(split) if split.is_dir() else []
    images = [path for path in found if path.name.lower().endswith(SUFFIXES)]
    return [path for path in images if str(path) not in known]


def _heading(row: list[str]) -> tuple[int, int] | None:
    """Returns the columns of path and label, if a line names them."""
    names = [cell.lower() for cell in row]
    paths = [place for place, name in enumerate(names) if name in _PATHS]
    labels = [place for place, name in enumerate(names) if name in _LABELS]
    return (paths[0], labels[0]) if paths and labels else None


def _cells(line: str) -> list[str]:
    if "\t" in line:
        return [cell.strip() for cell in line.split("\t")]
    if "," in line:
        return [cell.strip() for cell in next(csv.reader([line]))]
    return line.rsplit(maxsplit=1)
