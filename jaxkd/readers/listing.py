"""Lists files and folders by one rule, for training and for prediction alike.

Links are followed, unless they lead back to a folder above themselves. Hidden files and
folders (``.DS_Store``, ``._photo.jpg``, ``.ipynb_checkpoints``) are left out. A link
that leads nowhere is listed, so that whoever reads it names it. Names that are not
UTF-8 cannot be written to results: training refuses them, prediction shows them with
their bytes escaped (``shown``).
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from jaxkd.core.errors import UserError


def below(folder: Path, exclude: Collection[Path] = ()) -> list[Path]:
    """Lists all files in a folder and in the folders inside it, sorted by path.

    Args:
      folder: to search.
      exclude: folders that are not entered, such as the one that results go to.

    Raises:
      UserError: if a folder cannot be opened.
    """
    top = Path(folder)
    skipped = {os.path.realpath(path) for path in exclude}
    return sorted(_walk(top, (), skipped))


def _walk(folder: Path, above: tuple[str, ...], skipped: set[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above or here in skipped:
        return
    for entry in _scan(folder):
        if entry.is_dir():
            yield from _walk(folder / entry.name, (*above, here), skipped)
        elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry)):
            yield folder / entry.name


def named(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Lists the files below a folder whose names end in one of several, for training.

    Args:
      folder: to search, as ``below`` does.
      endings: in small letters; the case of the names does not matter.

    Raises:
      UserError: if a folder cannot be opened, or a path is not UTF-8.
    """
    found = [path for path in below(folder) if path.name.lower().endswith(endings)]
    for path in found:
        check_name(path)
    return found


def entries(folder: Path) -> list[str]:
    """Lists the names of what lies in a folder, sorted, for training.

    Raises:
      UserError: if it cannot be opened, or a name is not UTF-8.
    """
    names = sorted(entry.name for entry in _scan(Path(folder)))
    for name in names:
        check_name(Path(folder) / name)
    return names


def _scan(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"{shown(folder)} cannot be opened: {error.strerror}. Expected a folder "
            "that you may read."
        ) from error


def check_name(path: Path) -> None:
    """Checks that a file's name can be written to results.

    Raises:
      UserError: if it is not UTF-8.
    """
    if shown(path) != str(path):
        raise UserError(
            f"{shown(path)} has a name that is not UTF-8, expected one: results could "
            "not name it. Rename it."
        )


def shown(path: str | Path) -> str:
    r"""Returns a path as text that any file can hold: bytes beyond UTF-8 escaped.

    >>> shown(os.fsdecode(b"caf\xe9.jpg"))
    'caf\\xe9.jpg'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
