"""One page that compares several finished runs: table, curves, configurations."""

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxkd.core import config as configs
from jaxkd.core import files, records
from jaxkd.core.errors import UserError
from jaxkd.core.writers import read_metrics
from jaxkd.report import by_teacher, figures, page, study_table
from jaxkd.report.statistics import (
    Curve,
    Results,
    decimals,
    estimate,
    format_estimate,
    learning_curves,
    score,
    study_rows,
)
from jaxkd.report.style import order_students

# Lines of a figure that can still be told apart.
_MOST_LINES = 24


class ComparedRun(NamedTuple):
    """A finished run among others.

    Attributes:
      label: its folder, as short as it can be without being another's.
      folder: its workdir.
      results: content of ``results.json``.
      config: content of ``config.json``.
    """

    label: str
    folder: Path
    results: Results
    config: dict[str, Any]


def write_comparison(
    workdirs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> str:
    """Writes a page that compares runs, and returns its table for the terminal.

    Args:
      workdirs: folders of two or more finished runs.
      output: the page, a file that ends in ``.html``.

    Raises:
      UserError: if one is not finished or no training run, or their scores are of
        different metrics.
    """
    path = Path(output)
    if path.suffix != ".html":
        raise UserError(f"--output is {str(output)!r}, expected a file such as c.html.")
    runs = read_runs(workdirs)
    sweep = by_teacher.collect({run.label: run.results for run in runs})
    table, notes = compare_scores(runs), [*_notes(runs), *_left_out(runs, sweep)]
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "title": " / ".join(run.label for run in runs),
            "table": table,
            "notes": notes,
            "pictures": _draw(runs, Path(folder))
            | _draw_by_teacher(runs, sweep, Path(folder)),
            "by_teacher": sweep,
            "settings": [(run.label, study_table.setting(run.results)) for run in runs],
            "differences": compare_configs(runs),
            "label": study_table.score_label(runs[0].results),
        }
        text = page.render("compare.html.j2", content)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)
    lines = [*study_table.aligned(table), "", *notes, ""]
    if sweep is not None:
        lines += ["By the teacher's score", "", *study_table.aligned(sweep.table), ""]
    return "\n".join([*lines, f"Page: {path}"])


def read_runs(workdirs: Sequence[str | os.PathLike[str]]) -> list[ComparedRun]:
    """Reads the results and configurations of runs.

    Raises:
      UserError: see ``write_comparison``.
    """
    folders = [Path(each) for each in workdirs]
    # One run by two paths would look like two that agree perfectly.
    if len(folders) < 2 or len({one.resolve() for one in folders}) < len(folders):
        raise UserError(
            f"--inputs are {', '.join(map(str, folders)) or 'none'}, expected the "
            "workdirs of two or more runs, all different."
        )
    runs = []
    for label, folder in zip(_labels(folders), folders, strict=True):
        results = page.read_results(folder)
        if "pipeline" in results:
            raise UserError(
                f"{folder} holds a run of the pipeline {results['pipeline']!r}, which "
                "has no students to compare. Its own report compares what it measured."
            )
        if "students" not in results or "score" not in results:
            raise UserError(f"{folder} is no training run, or one of an old version.")
        config = records.read_config(folder)
        runs.append(ComparedRun(label, folder, results, config))
    names = {run.label: score(run.results).name for run in runs}
    if len(set(names.values())) > 1:
        raise UserError(f"The runs cannot be compared, their scores are {names}.")
    return runs


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names folders by their last part, or by as many as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(each[-depth:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def compare_scores(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Returns the scores of all students of all runs, the first row the heading.

    Scores have the standard error over their run's seeds.
    """
    by = score(runs[0].results)
    examples = min(run.results["data"]["test_examples"] for run in runs)
    show = partial(
        format_estimate,
        places=decimals(by, examples),
        scale=100 if by.percent else 1,
    )
    lines = [["run", "student", "last", "best", "seeds", "steps", "parameters"]]
    for run in runs:
        for name, network in run.results["frozen"].items():
            values = network.get("by_seed", {}).get(by.name)
            last = network.get(by.name) if values is None else estimate(values)
            count = f"{network['parameters']:,}"
            cells = [f"{name} ({network['model']})", show(last), "", "", "", count]
            lines.append([run.label, *cells])
        for row in study_rows(run.results):
            best = "" if row.best is None else show(row.best)
            seeds = str(len(row.last.values))
            sizes = [seeds, f"{row.steps:,}", f"{row.parameters:,}"]
            lines.append([run.label, row.name, show(row.last), best, *sizes])
    return lines


def _notes(runs: Sequence[ComparedRun]) -> list[str]:
    lines = [
        f"last: {study_table.score_label(runs[0].results)} after the final step; "
        "±: standard error of the mean over a run's seeds.",
        "best: of all evaluations, chosen on the test set itself and therefore too "
        "optimistic; compare by last.",
    ]
    for what, values in {
        "data": [run.results["data"]["name"] for run in runs],
        "test examples": [run.results["data"]["test_examples"] for run in runs],
        "seeds": [run.results["seeds"] for run in runs],
    }.items():
        if any(value != values[0] for value in values):
            each = ", ".join(
                f"{run.label}: {value}" for run, value in zip(runs, values, strict=True)
            )
            lines.append(f"The runs differ in their {what} ({each}).")
    return lines


def _left_out(
    runs: Sequence[ComparedRun], sweep: by_teacher.ByTeacher | None
) -> list[str]:
    """Names the figures that the page does not have, where one might expect them."""
    lines = []
    count = sum(len(run.results["students"]) for run in runs)
    if count > _MOST_LINES:
        lines.append(
            f"The {count} students are not drawn: more than {_MOST_LINES} lines cannot "
            "be told apart. Compare fewer runs."
        )
    metric = score(runs[0].results).name
    unknown = [
        run.label
        for run in runs
        if by_teacher.teacher_score(run.results, metric) is None
    ]
    if sweep is None and unknown and len(unknown) < len(runs):
        lines.append(
            "Students are not drawn against their teacher's score, which is not known "
            f"of {', '.join(unknown)}."
        )
    return lines


def compare_configs(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Returns the keys in which configurations differ, with each run's value.

    The first row is the heading; there is no other if they are equal. A key that a
    configuration does not have is a dash.
    """
    first, *others = runs
    changes = [configs.changes(first.config, other.config) for other in others]
    lines = [["", *(run.label for run in runs)]]
    for key in sorted(set().union(*changes)):
        common = next(one[key][0] for one in changes if key in one)
        values = [common, *(one.get(key, (None, common))[1] for one in changes)]
        lines.append([key, *("–" if v is None else str(v) for v in values)])
    return lines


def _draw_by_teacher(
    runs: Sequence[ComparedRun], sweep: by_teacher.ByTeacher | None, folder: Path
) -> dict[str, page.Picture]:
    """Draws the students' scores against their teacher's, if there is such a sweep."""
    if sweep is None:
        return {}
    by = score(runs[0].results)
    students = runs[0].results["students"]
    methods = {curve.name: students[curve.name]["method"] for curve in sweep.curves}
    label = study_table.score_label(runs[0].results)
    job = partial(
        figures.curves,
        data=sweep.curves,
        ylabel=f"students: {label}",
        xlabel=f"teacher: {label}",
        number=".1f" if by.percent else ".3g",
        band=True,
        student_order=order_students(methods, None),
        levels={},
    )
    return {"by_teacher": page.picture(folder, "by_teacher", job)}


def _draw(runs: Sequence[ComparedRun], folder: Path) -> dict[str, page.Picture]:
    """Draws test scores and training losses of all students of all runs."""
    by = score(runs[0].results)
    scale = 100 if by.percent else 1
    methods = {
        f"{run.label}: {name}": student["method"]
        for run in runs
        for name, student in run.results["students"].items()
    }
    if len(methods) > _MOST_LINES:
        return {}
    order = order_students(methods, None)
    drawn = {}
    for name, metric, ylabel, by_scale in (
        ("score", f"test_{by.name}", study_table.score_label(runs[0].results), scale),
        ("loss", "train_loss", "training loss", 1),
    ):
        data = [
            curve._replace(values=by_scale * curve.values)
            for run in runs
            for curve in _curves(run, metric)
        ]
        if any(len(curve.steps) > 1 for curve in data):
            number = ".1f" if by_scale > 1 else ".3g"
            job = partial(
                figures.curves,
                data=data,
                ylabel=ylabel,
                number=number,
                band=name == "score",
                student_order=order,
                levels={},
            )
            drawn[name] = page.picture(folder, name, job)
    return drawn


def _curves(run: ComparedRun, metric: str) -> list[Curve]:
    found = learning_curves(
        read_metrics(run.folder), metric, list(run.results["students"])
    )
    return [curve._replace(name=f"{run.label}: {curve.name}") for curve in found]
