"""What all figures share: colours, how a student is drawn, fonts, writing the file.

Figures use matplotlib's object interface, so that nothing of the caller's matplotlib
state is used or changed. Each is drawn once for light and once for dark pages.
Students are told apart by label and line pattern as well as by colour; the hues
follow Okabe and Ito's palette for colour vision deficiencies (Wong, Nature Methods 8,
2011).
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jaxkd.core import files

DPI = 160
WIDTH = 9.0  # inches, of all figures but the confusion matrix
# What the student trained without a teacher, or its method, is called.
PLAIN = ("ce", "supervised")


class Theme(NamedTuple):
    """Colours of a figure.

    Attributes:
      page: background.
      ink: text, and the student that the others are compared with.
      muted: tick labels, networks of earlier runs, the student without a teacher.
      grid: lines that should stay in the background.
      hues: of the other students.
      shades: of a matrix, from nothing to everything.
    """

    page: str
    ink: str
    muted: str
    grid: str
    hues: tuple[str, ...]
    shades: tuple[str, ...]


LIGHT = Theme(
    page="#fcfcfb",
    ink="#1c1e21",
    muted="#6a6f76",
    grid="#e4e5e7",
    hues=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    shades=("#fcfcfb", "#9cc9e6", "#0072b2", "#00263f"),
)
DARK = Theme(
    page="#17191c",
    ink="#e9eaec",
    muted="#9aa0a8",
    grid="#30343a",
    hues=("#2f8fdb", "#e8743b", "#1fb58a", "#e39bc5", "#ebbb45", "#9ad4f7"),
    shades=("#17191c", "#1b4a73", "#2f8fdb", "#e4f2fd"),
)


def themes(path: Path) -> Iterator[tuple[Path, Theme]]:
    """Returns the files of a figure, ``path`` without ``.png``, and their themes."""
    yield path.with_name(f"{path.name}.png"), LIGHT
    yield path.with_name(f"{path.name}-dark.png"), DARK


class StudentOrder(NamedTuple):
    """The students of a run, of whom two may have a part of their own.

    Attributes:
      names: of all students; their order decides their colours.
      reference: the one that the others are compared with, drawn in the colour of
        text; None if there is none.
      plain: the one trained without a teacher, drawn in grey dashes; None likewise.
    """

    names: Sequence[str]
    reference: str | None
    plain: str | None


def order_students(students: Mapping[str, str], reference: str | None) -> StudentOrder:
    """Gives the students of a run their parts.

    Args:
      students: name -> method, in the order of the configuration.
      reference: the one that the others are compared with; None if there is none.
    """
    plain = None
    if len(students) > 1:  # a student trained alone needs no look of its own
        called = ((name, {name, method}) for name, method in students.items())
        plain = next((name for name, words in called if words & set(PLAIN)), None)
    return StudentOrder(list(students), reference, plain)


class Look(NamedTuple):
    """How one student is drawn: colour, line pattern, width in points."""

    color: str
    dash: Any
    width: float


def line_styles(student_order: StudentOrder, theme: Theme) -> dict[str, Look]:
    """Returns how each student is drawn, the same in all figures.

    Args:
      cast: the students.
      theme: colours.

    Returns:
      Name -> look. No two of up to 24 students look alike.
    """
    result = {}
    others = [
        name
        for name in student_order.names
        if name not in (student_order.reference, student_order.plain)
    ]
    dashes: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (1, 1)))
    for index, name in enumerate(others):
        lap, hue = divmod(index, len(theme.hues))
        result[name] = Look(theme.hues[hue], dashes[lap % len(dashes)], 1.7)
    if student_order.plain is not None:
        result[student_order.plain] = Look(theme.muted, (0, (4, 2)), 1.7)
    if student_order.reference is not None:
        result[student_order.reference] = Look(theme.ink, "-", 2.3)
    return result


# Settings of matplotlib are the process's, and reports may be drawn beside a training.
_SETTINGS = threading.Lock()


@contextmanager
def canvas(
    path: Path, size: tuple[float, float], theme: Theme, layout: Any = None
) -> Iterator[Any]:
    """Yields an empty figure and writes it to ``path``."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _SETTINGS, matplotlib.rc_context(_settings(theme)):
        figure = Figure(figsize=size, dpi=DPI, layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        # Without the program's version in it the file depends on the data alone.
        with files.replacing(path) as whole:
            figure.savefig(whole, metadata={"Software": None})


def _settings(theme: Theme) -> Any:
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 10,
        "text.usetex": False,
        "text.parse_math": False,  # a class may be called "$"
        "text.color": theme.ink,
        "figure.facecolor": theme.page,
        "savefig.facecolor": theme.page,
        "savefig.dpi": "figure",
        "axes.facecolor": theme.page,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.muted,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "xtick.color": theme.grid,
        "ytick.color": theme.grid,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
    }


def logarithmic(axes: Any, which: str) -> None:
    """Makes an axis logarithmic, with plain numbers at its powers of ten.

    Figures do not parse mathematics, which matplotlib would write there.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    # Few powers of ten want ticks between.
    subs = (1.0, 2.0, 5.0) if high < 50 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def text_width(texts: Sequence[str]) -> float:
    """Returns the width of the longest text as a fraction of the figure's."""
    longest = max(map(len, texts), default=0)
    return longest * 6 / 72 / WIDTH  # six points a character of size 10


@cache
def _characters() -> frozenset[int]:
    """Returns the characters that the figures' font can draw."""
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def printable(name: str) -> str:
    """Returns a name as figures show it.

    Args:
      name: of a class, student or network.

    Returns:
      The name with a box for every character that the font lacks, cut to 24
      characters. Tables of the report show names unchanged.
    """
    name = "".join(c if ord(c) in _characters() else "□" for c in name)
    return name if len(name) <= 24 else name[:23] + "…"
