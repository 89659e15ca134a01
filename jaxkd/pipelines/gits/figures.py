"""Figures of the sampling benchmark: every function writes one PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.pipelines.gits.results import CellGroup
from jaxkd.report.style import (
    WIDTH,
    StudentOrder,
    Theme,
    canvas,
    line_styles,
    logarithmic,
    printable,
)

ERROR = "end-point error"
FRECHET = "Fréchet distance, raw values"


def by_schedule(
    path: Path,
    theme: Theme,
    *,
    found: Mapping[tuple[str, int], CellGroup],
    frechet: bool = False,
    floor: float | None = None,
) -> None:
    """Draws errors or distances against the calls: a panel a solver, a line a schedule.

    Args:
      path: the PNG file.
      theme: colours.
      found: the groups of a target by solver and calls.
      frechet: whether to draw Fréchet distances, without bars of the standard error.
      floor: the distance of the exact solution's samples, drawn as a level.
    """
    solvers = list(dict.fromkeys(solver for solver, _ in found))
    names = list(dict.fromkeys(name for g in found.values() for name in g.names))
    styles = line_styles(_student_order(names), theme)
    rows, columns = _panels(len(solvers))
    with canvas(path, (WIDTH, 1.1 + 2.5 * rows), theme, "constrained") as figure:
        axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axis, solver in zip(axes, solvers, strict=False):
            for name in names:
                _draw_schedule(axis, found, solver, name, styles[name], frechet)
            if floor is not None:
                axis.axhline(floor, color=theme.muted, linewidth=1, dashes=(2, 2))
            axis.set_title(solver, fontsize=10, loc="left")
        _finish(figure, axes, len(solvers), columns, FRECHET if frechet else ERROR)


def by_solver(
    path: Path,
    theme: Theme,
    *,
    found: Mapping[str, Mapping[tuple[str, int], CellGroup]],
    frechet: bool = False,
) -> None:
    """Draws the error of each solver on its best schedule: a panel for each target."""
    solvers = list(dict.fromkeys(s for groups in found.values() for s, _ in groups))
    styles = line_styles(
        StudentOrder(solvers, None, "euler" if "euler" in solvers else None), theme
    )
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    with canvas(path, (WIDTH, 0.9 + 3.2 * rows), theme, "constrained") as figure:
        axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axis, (target, groups) in zip(axes, found.items(), strict=False):
            for solver in solvers:
                mine = [g for (name, _), g in groups.items() if name == solver]
                values = [_value(group, group.best(), frechet) for group in mine]
                _line(axis, [g.nfe for g in mine], values, None, styles[solver], solver)
            axis.set_title(printable(target), fontsize=10, loc="left")
        _finish(figure, axes, len(found), columns, FRECHET if frechet else ERROR)


def schedule_sigmas(
    path: Path,
    theme: Theme,
    *,
    found: Mapping[tuple[str, int], CellGroup],
    solver: str,
) -> None:
    """Draws where schedules have their sigmas, one row for each number of calls."""
    mine = {calls: g for (name, calls), g in found.items() if name == solver}
    names = next(iter(mine.values())).names
    styles = line_styles(_student_order(names), theme)
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    with canvas(path, (WIDTH, 0.7 + 2.2 * rows), theme, "constrained") as figure:
        axes = figure.subplots(
            rows, columns, sharex=True, sharey=True, squeeze=False
        ).ravel()
        for axis, name in zip(axes, names, strict=False):
            for calls, group in mine.items():
                sigmas = group.records(name)[0]["sigmas"]
                at = np.full(len(sigmas), calls)
                axis.plot(sigmas, at, color=theme.grid, linewidth=1.5, zorder=1)
                axis.plot(sigmas, at, "o", color=styles[name].color, markersize=4.5)
            axis.set_title(f"{name}, {solver}", fontsize=10, loc="left")
            axis.set_yticks(list(mine))
        logarithmic(axes[0], "x")
        axes[0].invert_xaxis()
        _finish(figure, axes, len(names), columns, "NFE", "sigma", legend=False)


def cost(
    path: Path,
    theme: Theme,
    *,
    matrix: np.ndarray,
    grid: np.ndarray,
    plans: Mapping[str, np.ndarray],
    metric: str,
) -> None:
    """Draws the cost of an Euler step between any two sigmas, and planned paths.

    Args:
      path: the PNG file.
      theme: colours.
      matrix: ``[T, T]``, of which the upper part counts.
      grid: ``[T]`` sigmas.
      plans: name -> indices of a path, drawn as a staircase.
      metric: what is drawn.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    upper = np.triu(np.ones_like(matrix, bool), 1)
    shown = np.where(upper & (matrix > 0), matrix, np.nan)
    top = np.nanmax(shown)
    norm = LogNorm(max(np.nanmin(shown), 1e-4 * top), top)
    shades = LinearSegmentedColormap.from_list("cost", theme.shades)
    with canvas(path, (7.4, 6.2), theme, layout="constrained") as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shown, cmap=shades, norm=norm, interpolation="nearest")
        axes.grid(visible=False)
        for (name, indices), hue in zip(plans.items(), theme.hues[1:], strict=False):
            across, down = np.repeat(indices, 2)[1:], np.repeat(indices, 2)[:-1]
            axes.plot(across, down, color=hue, linewidth=1.8, label=name)
            axes.plot(indices[1:], indices[:-1], "o", color=hue, markersize=4)
        ticks = np.linspace(0, len(grid) - 1, 7).round().astype(int)
        axes.set_xticks(ticks, [f"{grid[tick]:.2g}" for tick in ticks])
        axes.set_yticks(ticks, [f"{grid[tick]:.2g}" for tick in ticks])
        axes.set(xlabel="to sigma", ylabel="from sigma")
        if plans:
            axes.legend(loc="lower left", frameon=False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.set_label(f"cost of one Euler step, metric {metric}")


def _student_order(names: Sequence[str]) -> StudentOrder:
    """Gives the fitted schedule the colour of text, and the usual one grey dashes."""
    reference = "fit" if "fit" in names else None
    return StudentOrder(
        names, reference, "polynomial" if "polynomial" in names else None
    )


def _panels(count: int) -> tuple[int, int]:
    columns = count if count <= 3 else 4
    return -(-count // columns), columns


def _value(group: CellGroup, name: str, frechet: bool) -> float:
    if not frechet:
        return group.score(name).mean
    distance = group.frechet(name)
    return np.nan if distance is None else distance


def _draw_schedule(axis, found, solver, name, look, frechet) -> None:
    mine = [g for (s, _), g in found.items() if s == solver and name in g.names]
    values = [_value(group, name, frechet) for group in mine]
    errors = [0.0 if frechet else group.score(name).error or 0.0 for group in mine]
    _line(axis, [g.nfe for g in mine], values, errors, look, name)


def _line(axis, calls, values, errors, look, label) -> None:
    axis.errorbar(
        calls,
        values,
        yerr=errors,
        color=look.color,
        linestyle=look.dash,
        linewidth=look.width,
        marker="o",
        markersize=3,
        elinewidth=1,
        label=label,
    )


def _finish(
    figure: Any,
    axes: Sequence[Any],
    used: int,
    columns: int,
    ylabel: str,
    xlabel: str = "NFE",
    legend: bool = True,
) -> None:
    """Labels the outer axes, hides the empty ones and writes one legend for all."""
    from matplotlib.ticker import MaxNLocator

    for index, axis in enumerate(axes):
        if index >= used:
            axis.set_visible(False)
            continue
        if legend:
            logarithmic(axis, "y")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if index + columns >= used:
            axis.set_xlabel(xlabel)
            axis.tick_params(labelbottom=True)
        if index % columns == 0:
            axis.set_ylabel(ylabel)
    if legend:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=7, frameon=False)
