"""Results of a benchmark of a pipeline as text and as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from jaxkd.core import files, options
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Items, Range
from jaxkd.report import page, study_table
from jaxkd.report.items import Figure, Table


def check_keys(config: ConfigDict, known: ConfigDict, part: str) -> None:
    """Checks the keys of a benchmark's configuration and of one part of it.

    Raises:
      UserError: for keys that are unknown or missing.
    """
    for got, expected, where in (
        (config, known, "config"),
        (config[part], known[part], f"config.{part}"),
    ):
        wrong = sorted(set(got) ^ set(expected))
        if wrong:
            raise UserError(
                f"{where} has unknown or missing keys: {', '.join(wrong)}; expected "
                f"{', '.join(expected)}."
            )


def check_different(config: ConfigDict, *names: str) -> None:
    """Checks the seeds of a benchmark, and that nothing is measured twice.

    Args:
      config: of the benchmark.
      *names: of its keys that are lists, beside ``seeds``.

    Raises:
      UserError: for seeds that are no whole numbers of 0 to 2^32 - 1, or a list that
        has something twice.
    """
    kind = Annotated[Sequence[int], Range(0, 2**32 - 1), Items()]
    options.check_type(config.seeds, kind, "config.seeds")
    for name in ("seeds", *names):
        if len(set(config[name])) < len(config[name]):
            raise UserError(
                f"config.{name} is {tuple(config[name])}, expected all different."
            )


def table_text(tables: Sequence[Mapping[str, Any]]) -> str:
    """Formats tables for the terminal."""
    lines: list[str] = []
    for one in tables:
        rows = study_table.aligned(one["rows"])
        lines += [one["title"], "", *rows, "", one["note"], ""]
    return "\n".join(lines).rstrip()


def write(
    workdir: Path, results: Mapping[str, Any], figures: Sequence[Figure] = ()
) -> Path:
    """Writes ``report.html``: tables and pictures, in one file.

    Args:
      workdir: folder of the run, with ``config.json``.
      results: with ``name``, ``about`` and ``tables``.
      figures: pictures in ``figures/``.
    """
    content = {
        "results": results,
        "figures": [
            {"item": one, "picture": page.drawn(workdir, one.name)} for one in figures
        ],
        "config": (workdir / "config.json").read_text(encoding="utf-8"),
    }
    path = workdir / "report.html"
    files.write_text(path, page.render("benchmark.html.j2", content))
    return path


def as_dict(table: Table) -> dict[str, Any]:
    """Returns a table as JSON holds it."""
    return {
        "title": table.title,
        "rows": [list(row) for row in table.rows],
        "note": table.note,
    }
