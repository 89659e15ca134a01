"""Figures of CT classifiers: heat maps beside lesions, and robustness."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.metrics import heatmaps
from jaxkd.report.items import Figure
from jaxkd.report.statistics import standard_error
from jaxkd.report.style import (
    WIDTH,
    StudentOrder,
    Theme,
    canvas,
    line_styles,
    printable,
    themes,
)

SCANS = 6  # shown in the montage


def robustness(
    folder: Path,
    student_order: StudentOrder,
    robust: Mapping[str, Mapping[str, Sequence[float]]],
    plain: str,
) -> Figure:
    """Draws the mean AUC of every student under each disturbance.

    Args:
      folder: for the files.
      cast: the students of the run.
      robust: student -> disturbance -> AUC of each seed.
      plain: the disturbance that is none.
    """
    for path, theme in themes(folder / "ct_robustness"):
        _draw_robustness(path, line_styles(student_order, theme), robust, theme)
    caption = (
        f"Mean and standard error over seeds; the first place is for scans {plain}."
    )
    return Figure("ct_robustness", "AUC on disturbed scans", caption)


def _draw_robustness(path: Path, styles, robust, theme: Theme) -> None:
    names = list(robust)
    with canvas(path, (WIDTH, 3.6), theme, "constrained") as figure:
        axes = figure.subplots()
        for index, name in enumerate(names):
            seeds = list(robust[name].values())
            aside = 0.1 * (index - (len(names) - 1) / 2)
            axes.errorbar(
                np.arange(len(seeds)) + aside,
                [np.mean(values) for values in seeds],
                [standard_error(values) for values in seeds],
                color=styles[name].color,
                fmt="o",
                label=printable(name),
            )
        kinds = list(robust[names[0]])
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set_ylabel("macro AUC")
        axes.legend(frameon=False)


def montage(
    folder: Path,
    student: str,
    maps: Mapping[str, np.ndarray],
    fields: Mapping[str, Any],
    classes: Sequence[str],
) -> Figure:
    """Draws heat maps of a few scans beside their lesions.

    Args:
      folder: for the files.
      student: whose maps they are.
      maps: name -> ``[scans, depth, height, width]``.
      fields: ``intensity``, ``lesion`` and ``lungs`` of the same scans.
      classes: of the same scans.
    """
    chosen = np.linspace(0, len(classes) - 1, min(SCANS, len(classes))).astype(int)
    for path, theme in themes(folder / "ct_heatmaps"):
        _draw_montage(path, maps, fields, classes, chosen, theme)
    caption = (
        f"First seed of {student}; of each scan the slice with most of its lesions, "
        "which the outline shows. Each map is spread over its own range."
    )
    return Figure("ct_heatmaps", "Heat maps of test scans", caption)


def _draw_montage(path, maps, fields, classes, chosen, theme: Theme) -> None:
    columns = ["scan", *maps]
    size = (WIDTH, WIDTH * len(chosen) / len(columns) * 0.8)
    with canvas(path, size, theme, "constrained") as figure:
        grid = figure.subplots(len(chosen), len(columns), squeeze=False)
        for row, scan in zip(grid, chosen, strict=True):
            lesion = fields["lesion"][scan]
            level = int(lesion.sum((1, 2)).argmax())
            picture = fields["intensity"][scan][level]
            row[0].set_ylabel(printable(classes[scan]))
            for axes, name in zip(row, columns, strict=True):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
                if name != "scan":
                    heat = heatmaps.normalized(maps[name][scan])[level]
                    axes.imshow(heat, cmap="inferno", alpha=0.6, vmin=0, vmax=1)
                if lesion[level].any():
                    axes.contour(lesion[level], [0.5], colors="cyan", linewidths=1)
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
        for axes, name in zip(grid[0], columns, strict=True):
            axes.set_title(name, fontsize=10)
