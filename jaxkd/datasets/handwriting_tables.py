"""Pairs of one's own choice: tables that say which words are compared.

A table is CSV or Parquet with ``sample1,sample2,label``: files relative to the root,
and 1 for one hand; ``jaxkd.readers.handwriting.write_pairs`` writes such tables.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.readers import handwriting as reading
from jaxkd.readers.handwriting import PairedWords, PairTable, Words


class Tables(NamedTuple):
    """Both sides' words, those that a table names, and their pairs."""

    train: PairedWords
    test: PairedWords


def read(root: Path, size: int, train: str, test: str, split: str) -> Tables:
    """Reads the pairs of both sides.

    Args:
      root: of the pictures, see ``jaxkd.readers.handwriting`` for its layouts.
      size: side of the pictures.
      train: table of pairs.
      test: likewise.
      split: as of ``reading.split``; ``"unseen"`` refuses a writer on both sides.

    Raises:
      UserError: if a table is missing or cannot be read, names unknown files, calls
        pairs of two writers one hand or the other way, or both share a picture or a
        writer.
    """
    first, second = reading.read_folder(root.expanduser(), size)
    words = first if second is None else _join(first, second)
    sides = []
    for name in (train, test):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(
                f"{path.absolute()} does not exist, expected a table of pairs (CSV or "
                f"Parquet with {','.join(reading.COLUMNS)})."
            )
        table = reading.read_pairs(path, words.files)
        _check_labels(path, table, words)
        used, places = np.unique([table.first, table.second], return_inverse=True)
        one, other = places.reshape(2, -1)
        own = PairTable(one, other, table.same)
        sides.append(PairedWords(words.rows(used), own))
    found = Tables(*sides)
    reading.check_leakage(found.train.words, found.test.words)
    shared = np.intersect1d(found.train.words.writer, found.test.words.writer)
    if split == "unseen" and shared.size:
        raise UserError(
            f"Writer {words.names[shared[0]]!r} is in {train} and in {test} "
            f"({shared.size} such writers), so that the test does not tell of writers "
            "never seen. Take them out of one table, or set split='seen'."
        )
    return found


def _join(first: Words, second: Words) -> Words:
    """Joins the sides of a folder, whose writers are numbered over both."""
    return Words(
        np.concatenate([first.image, second.image]),
        np.concatenate([first.writer, second.writer]),
        first.names,
        (*first.files, *second.files),
    )


def _check_labels(path: Path, table: PairTable, words: Words) -> None:
    same = words.writer[table.first] == words.writer[table.second]
    wrong = np.flatnonzero(same != table.same)
    if wrong.size:
        line = wrong[0]
        files = [words.files[one[line]] for one in (table.first, table.second)]
        raise UserError(
            f"{path}, row {line + 2}, gives {' and '.join(files)} the label "
            f"{int(table.same[line])}, but their folders or names tell of "
            f"{'one writer' if same[line] else 'two writers'} ({wrong.size} such "
            "rows). Correct the table, or move the pictures."
        )
