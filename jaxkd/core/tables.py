"""Tables in CSV that spreadsheets open without computing anything.

A cell that begins with ``=``, ``+``, ``-`` or ``@`` is a formula to a spreadsheet, also
in a table of file names that somebody else chose. Such text is marked by a quote.
"""

import csv
from collections.abc import Iterable
from typing import Any, TextIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: Any) -> Any:
    """Returns a value whose text no spreadsheet takes for a formula; numbers stay."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


class CsvWriter:
    """Writes rows of cells as CSV, with line ends as on Unix."""

    def __init__(self, file: TextIO):
        self._writer = csv.writer(file, lineterminator="\n")

    def writerow(self, row: Iterable[Any]) -> None:
        """Writes one row."""
        self._writer.writerow([cell(value) for value in row])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Writes rows."""
        for row in rows:
            self.writerow(row)
