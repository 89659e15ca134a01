"""Figures of detectors of forged clips: by kind of forgery, and under noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxkd.report.style import WIDTH, Look, Theme, canvas, printable


def aucs(
    path: Path,
    theme: Theme,
    styles: Mapping[str, Look],
    found: Mapping[str, Sequence[Mapping[str, float]]],
    kinds: Sequence[str],
    seen: set[str],
) -> None:
    """Draws the AUC of every seed by kind of forgery, and their means.

    Args:
      path: the PNG file.
      theme: colours.
      styles: of the students.
      found: student -> seed -> kind -> AUC.
      kinds: in their order.
      seen: those among the training clips.
    """
    with canvas(path, (WIDTH, 3.6), theme, "constrained") as figure:
        axes = figure.subplots()
        axes.axhline(0.5, color=theme.grid)
        for index, (student, rows) in enumerate(found.items()):
            aside = 0.8 * ((index + 0.5) / len(found) - 0.5)
            color = styles[student].color
            for place, kind in enumerate(kinds):
                values = [row[kind] for row in rows]
                label = printable(student) if place == 0 else None
                at = place + aside
                axes.plot(
                    [at] * len(values), values, "o", ms=3, color=color, label=label
                )
                axes.plot([at - 0.05, at + 0.05], [np.mean(values)] * 2, color=color)
        shown = [kind if kind in seen else f"{kind}*" for kind in kinds]
        axes.set_xticks(range(len(kinds)), shown)
        axes.set(ylabel="AUC", ylim=(min(0.2, axes.get_ylim()[0]), 1.03))
        if kinds:
            axes.legend(loc="lower left", fontsize=8, ncols=3)


def robustness(
    path: Path,
    theme: Theme,
    styles: Mapping[str, Look],
    sweep: Mapping[str, Mapping[str, np.ndarray]],
    ticks: Sequence[str],
) -> None:
    """Draws AUC over the levels of each noise, one line a student.

    Args:
      path: the PNG file.
      theme: colours.
      styles: of the students.
      sweep: student -> noise -> AUC ``[levels, seeds]``.
      ticks: of the levels.
    """
    noises = list(next(iter(sweep.values())))
    places = np.arange(len(ticks))
    with canvas(path, (WIDTH, 3.2), theme, "constrained") as figure:
        grid = figure.subplots(1, len(noises), sharey=True, squeeze=False)[0]
        for axes, kind in zip(grid, noises, strict=True):
            axes.axhline(0.5, color=theme.grid)
            for student, found in sweep.items():
                values, style = found[kind], styles[student]
                axes.plot(
                    places,
                    values.mean(1),
                    color=style.color,
                    linestyle=style.dash,
                    marker="o",
                    markersize=3.5,
                    label=printable(student),
                )
                low, high = values.min(1), values.max(1)
                axes.fill_between(places, low, high, color=style.color, alpha=0.2)
            axes.set_xticks(places, ticks)
            axes.set_xlabel(f"{kind} noise, dB" if kind == "white" else f"{kind}, dB")
        grid[0].set(ylabel="AUC", ylim=(0.2, 1.03))
        if len(sweep) > 1:
            grid[0].legend(loc="lower left", fontsize=8)
