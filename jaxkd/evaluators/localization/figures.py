"""Figures of localisers: what they mark, and how it fades under disturbances."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxkd.evaluators.localization import corruptions
from jaxkd.report.style import (
    WIDTH,
    StudentOrder,
    Theme,
    canvas,
    line_styles,
    printable,
)


def examples(
    path: Path,
    theme: Theme,
    *,
    truth: Mapping[str, np.ndarray],
    maps: np.ndarray,
    rows: Mapping[str, np.ndarray],
) -> None:
    """Draws images, masks and probabilities of chosen examples.

    Args:
      path: the PNG file.
      theme: colours.
      truth: ``image`` uint8 and ``target_mask`` in [0, 1], ``[n, h, w, ...]``.
      maps: probabilities ``[n, h, w]``.
      rows: name of a group -> its examples; each group has its own line.
    """
    count = max(map(len, rows.values()))
    height = WIDTH / (3 * count) + 0.25  # square pictures, and room for the name
    with canvas(path, (WIDTH, height * len(rows)), theme) as figure:
        grid = figure.subplots(len(rows), 3 * count, squeeze=False)
        for axes, (name, chosen) in zip(grid, rows.items(), strict=True):
            for place in range(3 * count):
                axes[place].set_axis_off()
            axes[0].set_title(printable(name), loc="left", fontsize=9, color=theme.ink)
            for place, row in enumerate(chosen):
                pictures = (truth["image"][row], truth["target_mask"][row], maps[row])
                for part, picture in enumerate(pictures):
                    axes[3 * place + part].imshow(
                        picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
                    )
        top = 1 - 0.25 / (height * len(rows))
        figure.subplots_adjust(0.005, 0.01, 0.995, top, wspace=0.06, hspace=0.35)


def robustness(
    path: Path, theme: Theme, *, student_order: StudentOrder, sweep: Mapping
) -> None:
    """Draws IoU over the levels of each disturbance, one line a student.

    Args:
      path: the PNG file.
      theme: colours.
      cast: the students of the run.
      sweep: student -> kind of ``perturb.GRID`` -> level -> IoU of each seed.
    """
    styles = line_styles(student_order, theme)
    with canvas(path, (WIDTH, 2.7), theme, layout="constrained") as figure:
        grid = figure.subplots(1, len(corruptions.GRID), sharey=True)
        for axes, (kind, levels) in zip(grid, corruptions.GRID.items(), strict=True):
            places = np.arange(len(levels))
            for student, found in sweep.items():
                values, style = np.asarray(found[kind]), styles[student]
                axes.plot(
                    places,
                    values.mean(1),
                    color=style.color,
                    dashes=style.dash[1] if isinstance(style.dash, tuple) else (),
                    marker="o",
                    markersize=3.5,
                    label=printable(student),
                )
                axes.fill_between(
                    places, values.min(1), values.max(1), color=style.color, alpha=0.2
                )
            axes.set_xticks(places, [f"{level:g}" for level in levels])
            axes.set_xlabel(corruptions.LABELS[kind])
        most = max(np.max(v) for found in sweep.values() for v in found.values())
        grid[0].set(ylabel="IoU", ylim=(0, 1.08 * most))
        if len(sweep) > 1:
            grid[0].legend(frameon=False, fontsize=8)
