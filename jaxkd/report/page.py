"""The report of a finished run: one HTML page with its figures.

Accuracies are fractions in ``results.json`` and percent where people read them; of
scores that are no percentages both are the same.
"""

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import files, records
from jaxkd.core.errors import UserError
from jaxkd.core.writers import read_metrics
from jaxkd.report import figures
from jaxkd.report.statistics import (
    Results,
    Row,
    class_accuracies,
    format_estimate,
    learning_curves,
    networks,
    score,
    study_rows,
    worst_classes,
)
from jaxkd.report.study_table import (
    digits,
    magnitude,
    notes,
    percent_scale,
    score_label,
    setting,
    table,
)
from jaxkd.report.style import DPI, Theme, order_students, themes

REPORT, CONFUSION = "report.html", "confusion.npz"


class Picture(NamedTuple):
    """A figure inside the page: data URIs for light and dark, width in pixels."""

    light: str
    dark: str
    width: int


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes ``report.html`` and its figures.

    The page is a single file: pictures are embedded, nothing is loaded from
    elsewhere. Sections whose data are missing are left out.

    Args:
      workdir: folder of a finished run, with ``results.json`` and, where written,
        ``metrics.jsonl``, ``confusion.npz`` and ``config.json``.

    Returns:
      Path of the page.

    Raises:
      UserError: if the folder holds no results.
    """
    folder = Path(workdir)
    page = render("report.html.j2", _content(folder, read_results(folder)))
    path = folder / REPORT
    files.write_text(path, page)
    return path


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fills in one of the package's templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jaxkd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


def read_results(folder: Path) -> dict[str, Any]:
    """Reads the results of a finished run of any version.

    Raises:
      UserError: if there are none.
    """
    path = folder / "results.json"
    if not path.exists():
        raise UserError(
            f"{folder} has no results.json, so there is nothing to report. Finish the "
            f"run with `python -m jaxkd.main --config=... --workdir={folder}`, or "
            "name the folder of a finished run."
        )
    return records.read_results(folder)


def _content(folder: Path, results: Results) -> dict[str, Any]:
    """Collects everything that the template shows."""
    rows, places = study_rows(results), digits(results)
    best = _best(rows, score(results).lower)
    counts = _read_confusion(folder, best.name)
    config = folder / "config.json"
    names = results["data"]["class_names"]
    return {
        "results": results,
        "setting": setting(results),
        "table": table(results),
        "notes": notes(results),
        "rows": rows,
        "best": best,
        "tied": _tied(rows, best, results),
        "label": score_label(results),
        "extreme": "lowest" if score(results).lower else "highest",
        "show": partial(format_estimate, places=places, scale=percent_scale(results)),
        "percent": partial(format_estimate, places=places),
        "figures": [
            {**one, "picture": _found(folder, one["name"])}
            for one in results.get("figures", ())
        ],
        "magnitude": magnitude,
        "factor": lambda value: "" if value is None else f"{value:.1f}×",
        "pairs": lambda tree: ", ".join(f"{k}={v}" for k, v in tree.items()),
        "networks": networks(results),
        "worst": None if counts is None else worst_classes(counts, names),
        "pictures": _draw(folder, results, rows, counts),
        "config": config.read_text(encoding="utf-8") if config.exists() else None,
    }


def _best(rows: Sequence[Row], lower: bool) -> Row:
    sign = -1 if lower else 1
    return max(rows, key=lambda row: np.nan_to_num(sign * row.last.mean, nan=-np.inf))


def _tied(rows: Sequence[Row], best: Row, results: Results) -> list[str]:
    """Returns the students whose mean is printed like the best one's; one is no tie."""
    show = partial(
        format_estimate, places=digits(results), scale=percent_scale(results)
    )
    names = [row.name for row in rows if show(row.last.mean) == show(best.last.mean)]
    return names if len(names) > 1 and np.isfinite(best.last.mean) else []


def _read_confusion(folder: Path, student: str) -> np.ndarray | None:
    path = folder / CONFUSION
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return arrays.get(student)


def _draw(
    folder: Path, results: Results, rows: Sequence[Row], counts: np.ndarray | None
) -> dict[str, Picture]:
    """Draws the figures for which there are data."""
    metrics, names = read_metrics(folder), [row.name for row in rows]
    jobs: dict[str, Callable[[Path, Theme], None]] = {}
    methods = {row.name: row.method for row in rows}
    student_order = order_students(methods, results.get("reference"))
    levels = _levels(results)
    scale, label = percent_scale(results), score_label(results)
    if len(rows) * len(results["seeds"]) > 1:
        jobs["final"] = partial(
            figures.final_values,
            values={row.name: [scale * v for v in row.last.values] for row in rows},
            errors={
                row.name: row.last.error and scale * row.last.error for row in rows
            },
            xlabel=f"{label} after the final step",
            student_order=student_order,
            levels=levels,
        )
    scores = learning_curves(metrics, f"test_{score(results).name}", names)
    if any(len(curve.steps) > 1 for curve in scores):
        jobs["accuracy"] = partial(
            figures.curves,
            data=[curve._replace(values=scale * curve.values) for curve in scores],
            ylabel=label,
            number=".1f" if scale > 1 else ".3g",
            band=True,
            student_order=student_order,
            levels=levels,
        )
    losses = learning_curves(metrics, "train_loss", names)
    if any(len(curve.steps) > 1 for curve in losses):
        jobs["loss"] = partial(
            figures.curves,
            data=losses,
            student_order=student_order,
            levels={},
            ylabel="training loss",
            number=".3g",
            band=False,
        )
    if counts is not None:
        jobs |= _class_figures(counts, results["data"]["class_names"])
    return {name: picture(folder, name, job) for name, job in jobs.items()}


def _class_figures(
    counts: np.ndarray, names: Sequence[str]
) -> dict[str, Callable[[Path, Theme], None]]:
    shares = class_accuracies(counts)
    return {
        "classes": partial(figures.class_accuracies, accuracies=shares, names=names),
        "confusion": partial(figures.confusion, counts=counts, names=names),
    }


def _levels(results: Results) -> dict[str, float]:
    """Returns the scores of the networks of earlier runs, as they are drawn."""
    by = score(results).name
    return {
        name: percent_scale(results) * network[by]
        for name, network in results["frozen"].items()
        if network.get(by) is not None
    }


def picture(folder: Path, name: str, job: Callable[[Path, Theme], None]) -> Picture:
    """Draws a figure for light and dark pages and embeds both."""
    (folder / "figures").mkdir(exist_ok=True)
    for path, theme in themes(folder / "figures" / name):
        job(path, theme)
    return drawn(folder, name)


def _found(folder: Path, name: str) -> Picture | None:
    """Embeds a figure of an evaluator, which is not drawn again if it is lost."""
    there = any(path.exists() for path, _ in themes(folder / "figures" / name))
    return drawn(folder, name) if there else None


def drawn(folder: Path, name: str) -> Picture:
    """Embeds a figure that was drawn before; a light one serves for both."""
    links = []
    for path, _ in themes(folder / "figures" / name):
        if path.exists():
            data = path.read_bytes()
        links.append("data:image/png;base64," + base64.b64encode(data).decode())
    # A PNG file states its width in bytes 16 to 20.
    width = int.from_bytes(data[16:20]) * 104 // DPI
    return Picture(links[0], links[1], width)
