"""Drawing the figures of a report: every function writes one PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.report.statistics import Curve
from jaxkd.report.style import (
    WIDTH,
    Look,
    StudentOrder,
    Theme,
    canvas,
    line_styles,
    logarithmic,
    printable,
    text_width,
)

MOST_NAMED_CLASSES = 20


def curves(
    path: Path,
    theme: Theme,
    *,
    data: Sequence[Curve],
    student_order: StudentOrder,
    levels: Mapping[str, float],
    ylabel: str,
    number: str,
    band: bool,
    xlabel: str = "step",
) -> None:
    """Draws a metric against the training step, one labelled line per student.

    Lines are means over seeds; of more than 120 points, neighbours are averaged. An
    axis of positive values that spans more than a factor of 30 is logarithmic.

    Args:
      path: the PNG file.
      theme: colours.
      data: at least one curve.
      cast: the students.
      levels: name -> value of networks drawn as horizontal dashed lines.
      ylabel: what the values are.
      number: format of the last values, such as ``".1f"``.
      band: whether to shade one standard error over seeds around each line.
      xlabel: what the curves' steps are, if they are no steps.
    """
    styles = line_styles(student_order, theme)
    lines = [_line(curve) for curve in data]
    ends = [
        _End(f"{printable(line.name)} {value:{number}}", value, step, color)
        for line in lines
        for value, step, color in [(*line.end, styles[line.name].color)]
        if np.isfinite(value)
    ]
    ends += [
        _End(f"{printable(name)} {value:{number}}", value, np.inf, theme.muted)
        for name, value in levels.items()
    ]
    right = text_width([end.text for end in ends]) + 0.05
    with canvas(path, (WIDTH, 4.9), theme) as figure:
        axes = figure.add_axes((0.075, 0.115, 0.925 - right, 0.85))
        for line in lines:
            _draw_line(axes, line, styles[line.name], band)
        for value in levels.values():
            axes.axhline(value, color=theme.muted, dashes=(6, 4), linewidth=1.2)
        _scale(axes, np.concatenate([line.mean for line in lines]))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        first, last = min(c.steps[0] for c in data), max(c.steps[-1] for c in data)
        axes.set_xlim(first, last if last > first else first + 1)
        _label_ends(axes, sorted(ends, key=lambda end: end.value))


class _Line(NamedTuple):
    """A curve's mean and standard error over seeds, ``[points]`` each."""

    name: str
    steps: np.ndarray
    mean: np.ndarray
    error: np.ndarray

    @property
    def end(self) -> tuple[float, float]:
        """The last value that is finite, and its step."""
        finite = np.flatnonzero(np.isfinite(self.mean))
        if not finite.size:
            return np.nan, np.nan
        return float(self.mean[finite[-1]]), float(self.steps[finite[-1]])


class _End(NamedTuple):
    """The label at the end of a line."""

    text: str
    value: float
    step: float
    color: str


def _line(curve: Curve) -> _Line:
    steps, values = _thin(curve.steps, curve.values)
    finite = np.isfinite(values)
    count = finite.sum(1)
    mean = np.where(finite, values, 0.0).sum(1) / np.maximum(count, 1)
    square = np.where(finite, values - mean[:, None], 0.0) ** 2
    error = np.sqrt(square.sum(1) / np.maximum(count - 1, 1) / np.maximum(count, 1))
    return _Line(curve.name, steps, np.where(count > 0, mean, np.nan), error)


def _draw_line(axes: Any, line: _Line, look: Look, band: bool) -> None:
    axes.plot(
        line.steps,
        line.mean,
        color=look.color,
        linestyle=look.dash,
        linewidth=look.width,
        marker="o" if len(line.steps) <= 12 else None,
        markersize=3.5,
        clip_on=False,  # or markers at the edges are cut in half
    )
    if band:
        low, high = line.mean - line.error, line.mean + line.error
        axes.fill_between(
            line.steps, low, high, color=look.color, alpha=0.15, linewidth=0
        )


def _thin(
    steps: np.ndarray, values: np.ndarray, most: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    """Averages neighbouring points until at most ``most`` are left."""
    size = -(-len(steps) // most)
    if size <= 1:
        return steps, values
    starts = np.arange(0, len(steps), size)
    finite = np.isfinite(values)
    count = np.add.reduceat(finite.astype(np.int64), starts)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    ends = np.append(starts[1:], len(steps)) - 1
    return (steps[starts] + steps[ends]) / 2, means


def _scale(axes: Any, values: np.ndarray) -> None:
    """Chooses a linear or logarithmic value axis with plain numbers."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() / values.min() > 30:
        logarithmic(axes, "y")


def _label_ends(axes: Any, ends: Sequence[_End]) -> None:
    """Writes labels right of the lines, moved apart where they are close."""
    if not ends:
        return
    edge = axes.get_xlim()[1]  # settles the limits that the transform depends on
    to_axes = axes.transData + axes.transAxes.inverted()
    starts = [to_axes.transform((min(end.step, edge), end.value)) for end in ends]
    height = axes.get_position().height * axes.figure.get_figheight() * 72
    targets = spread(np.array([place for _, place in starts]), 12 / height)
    for end, (start, place), target in zip(ends, starts, targets, strict=True):
        style = {"transform": axes.transAxes, "color": end.color, "linewidth": 1.1}
        if start < 1:  # trained for fewer steps than others
            axes.plot((start, 1), (place, place), ":", **style)
        xs, ys = (1, 1.012, 1.035, 1.045), (place, place, target, target)
        axes.plot(xs, ys, clip_on=False, **style)
        axes.text(
            1.052,
            target,
            end.text,
            transform=axes.transAxes,
            verticalalignment="center_baseline",
            fontsize=9.5,
        )


def spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Moves sorted places in [0, 1] apart until neighbours are ``gap`` apart.

    Of all such placements this is the one with the least sum of squared moves: less
    ``gap`` times their rank, the places must not decrease, which is isotonic
    regression.

    Args:
      places: ``[n]``, increasing.
      gap: smallest distance expected; reduced if n places do not fit.

    Returns:
      ``[n]``, within [0, 1].
    """
    from sklearn.isotonic import isotonic_regression

    gap = min(gap, 1 / max(len(places) - 1, 1))
    offsets = gap * np.arange(len(places))
    room = max(1 - gap * (len(places) - 1), 0.0)
    return isotonic_regression(places - offsets, y_min=0.0, y_max=room) + offsets


def final_values(
    path: Path,
    theme: Theme,
    *,
    values: Mapping[str, Sequence[float]],
    errors: Mapping[str, float | None],
    student_order: StudentOrder,
    levels: Mapping[str, float],
    xlabel: str,
) -> None:
    """Draws each student's mean with its standard error and its seeds as dots.

    A thin line continues the mean of the reference. A network of ``levels`` far
    outside the students' range is named at the edge rather than drawn, because the
    students' differences would shrink to nothing.

    Args:
      path: the PNG file.
      theme: colours.
      values: name -> one value per seed, NaN where a seed has none.
      errors: name -> standard error, None of one seed.
      cast: the students.
      levels: name -> value of networks drawn as vertical dashed lines.
      xlabel: what the values are.
    """
    styles = line_styles(student_order, theme)
    means = {name: float(np.mean(series)) for name, series in values.items()}
    # A student without a finite mean keeps an empty row, the lowest.
    order = sorted(means, key=lambda name: np.nan_to_num(means[name], nan=-np.inf))
    names = [printable(name) for name in order]
    left = text_width(names) + 0.02
    above = 0.25 + 0.17 * len(levels)
    height = 0.6 + 0.33 * len(order) + above
    with canvas(path, (WIDTH, height), theme) as figure:
        bottom, top = 0.6 / height, above / height
        axes = figure.add_axes((left, bottom, 0.97 - left, 1 - bottom - top))
        for row, name in enumerate(order):
            _draw_values(axes, row, values[name], errors[name], styles[name].color)
        if student_order.reference is not None:
            axes.axvline(
                means[student_order.reference],
                color=theme.ink,
                linewidth=0.9,
                alpha=0.45,
                zorder=1,
            )
        axes.set_yticks(range(len(order)), names, color=theme.ink, fontsize=10)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(xlabel)
        _draw_levels(axes, levels, theme)


def _draw_values(
    axes: Any, row: int, values: Sequence[float], error: float | None, color: str
) -> None:
    mean = float(np.mean(values))
    if error is not None:
        axes.plot(
            values,
            np.full(len(values), row),
            "o",
            markerfacecolor="none",
            markeredgecolor=color,
            markersize=5,
            alpha=0.75,
        )
        axes.plot((mean - error, mean + error), (row, row), color=color, linewidth=3)
    axes.plot(mean, row, "D", color=color, markersize=6.5)


def _draw_levels(axes: Any, levels: Mapping[str, float], theme: Theme) -> None:
    low, high = axes.get_xlim()
    reach = max(high - low, 1e-9)
    for line, (name, value) in enumerate(levels.items()):
        text = f"{printable(name)} {value:.1f}"
        if low - reach <= value <= high + reach:
            axes.axvline(value, color=theme.muted, dashes=(6, 4), linewidth=1.2)
            x, side, transform = value, "center", axes.get_xaxis_transform()
        elif value > high:
            x, side, transform = 1.0, "right", axes.transAxes
            text += " →"
        else:
            x, side, transform = 0.0, "left", axes.transAxes
            text = "← " + text
        axes.text(
            x,
            1.0,
            text + "\n" * line,  # one label above the other
            transform=transform,
            horizontalalignment=side,
            verticalalignment="bottom",
            color=theme.muted,
            fontsize=9.5,
        )


def class_accuracies(
    path: Path, theme: Theme, *, accuracies: np.ndarray, names: Sequence[str]
) -> None:
    """Draws the accuracy of each class, sorted, as bars.

    Args:
      path: the PNG file.
      theme: colours.
      accuracies: ``[classes]``, fractions, NaN for classes without examples.
      names: of the classes; written if there are at most 20.
    """
    accuracies = 100 * accuracies
    order = np.argsort(accuracies)  # NaN goes last
    order = order[np.isfinite(accuracies[order])]
    with canvas(path, (WIDTH, 3.6), theme, layout="constrained") as figure:
        axes = figure.add_subplot()
        width = 1.0 if len(order) > 50 else 0.8
        axes.bar(
            range(len(order)), accuracies[order], width=width, color=theme.shades[1]
        )
        mean = float(np.mean(accuracies[order]))
        axes.axhline(mean, color=theme.ink, dashes=(6, 4), linewidth=1.2)
        axes.set(ylabel="accuracy (%)", ylim=(0, 100), xlim=(-0.6, len(order) - 0.4))
        axes.grid(axis="x", visible=False)
        _name_classes(axes.xaxis, [names[index] for index in order], 40)
        axes.set_xlabel(f"{len(order)} classes, sorted (dashes: mean {mean:.1f})")


def confusion(
    path: Path, theme: Theme, *, counts: np.ndarray, names: Sequence[str]
) -> None:
    """Draws a confusion matrix, each row in percent of the class's examples.

    Colours follow the square root, so that confusions of one percent can be seen.

    Args:
      path: the PNG file.
      theme: colours.
      counts: ``[classes, classes]``; row: true class, column: predicted class.
      names: of the classes; written if there are at most 20.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    shades = LinearSegmentedColormap.from_list("counts", theme.shades)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with canvas(path, (7.4, 6.2), theme, layout="constrained") as figure:
        axes = figure.add_subplot()
        image = axes.imshow(
            shares, cmap=shades, norm=PowerNorm(0.5, 0, 100), interpolation="nearest"
        )
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        _name_classes(axes.xaxis, names, 60)
        _name_classes(axes.yaxis, names, 0)
        axes.set(xlabel="predicted class", ylabel="true class")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02)
        bar.set_ticks([0, 1, 5, 10, 25, 50, 100])
        bar.outline.set_visible(False)
        bar.set_label("% of the true class")


def _name_classes(axis: Any, names: Sequence[str], rotation: float) -> None:
    """Writes class names on an axis unless they are too many to read."""
    if len(names) > MOST_NAMED_CLASSES:
        axis.set_ticks([])
        return
    axis.set_ticks(range(len(names)), [printable(name) for name in names])
    if rotation and max(map(len, names)) > 3:
        for label in axis.get_ticklabels():
            label.set(rotation=rotation, ha="right", rotation_mode="anchor")
