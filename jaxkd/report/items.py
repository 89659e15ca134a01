"""Items of a report: figures and tables that evaluators hand over."""

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """A picture in the run's folder ``figures``.

    Attributes:
      name: of the file, without ``.png``; ``{name}-dark.png`` may lie beside it.
      title: of its section of the report.
      caption: below it.
    """

    name: str
    title: str
    caption: str = ""


class Table(NamedTuple):
    """A table of text cells.

    Attributes:
      title: above it.
      rows: the first is the heading.
      note: below it.
    """

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""
