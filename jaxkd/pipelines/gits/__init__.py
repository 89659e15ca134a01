"""The sampling benchmark: solvers, schedules and numbers of model calls.

On densities in closed form, and on EDM models, every solver is run with every number
of model calls on every schedule: fixed ones, those of GITS (arXiv 2405.11326) and ones
fitted to the solver. What counts is the distance from the exact solution of the same
latents; the Fréchet distance on raw pixels stands beside it. The best schedules are
kept as JSON files in ``schedules/``, for ``diffusion.schedules.load``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.diffusion import samplers, schedules, solvers
from jaxkd.pipelines.gits import cells as gits_cells
from jaxkd.pipelines.gits import config as gits_config
from jaxkd.pipelines.gits import models, report, trained_models
from jaxkd.pipelines.gits.config import check, default
from jaxkd.pipelines.gits.densities import SampledModel
from jaxkd.pipelines.gits.results import Results, format_table, groups
from jaxkd.report.image_grid import as_bytes, mosaic

__all__ = ("check", "default", "format_table", "run", "sample", "write_report")

SCHEDULES = "schedules"
RUNTIME_KEYS = ("name", "sample")


def run(
    config: ConfigDict, workdir: Path, stop_requested: StopRequest = never_stop
) -> dict[str, Any]:
    """Measures all cells, or those that are left, and keeps the best schedules.

    Raises:
      UserError: if a model or a trajectory is not finite.
      Interrupted: if it was asked to stop between two cells.
    """
    trained_models.train(config, workdir, stop_requested)
    results = _results(config, gits_cells.fill(config, workdir, stop_requested))
    _save_schedules(workdir, results)
    return results


def write_report(config: ConfigDict, workdir: Path, results: Results) -> None:
    """Draws the figures and writes ``report.html``."""
    report.draw(config, workdir, results)
    report.write(workdir, results)


def sample(
    config: ConfigDict,
    workdir: Path,
    seeds: Sequence[int],
    output: str | Path | None = None,
) -> Path:
    """Samples images, one a seed, and writes them as one PNG grid, in rows.

    What is sampled is ``config.sample``: the target, the solver and the schedule, by
    default the best that a finished run found.

    Raises:
      UserError: for a target that has no images, or if there is no schedule.
    """
    check(config)
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**31:
        raise UserError(
            "The seeds to sample must be at least one, all from 0 to 2**31 - 1, such "
            "as range(64)."
        )
    settings = config.sample
    names = models.names(config)
    name = settings.target or names[0]
    if name not in names:
        raise UserError(
            f"config.sample.target is {name!r}, expected one of {', '.join(names)}."
        )
    target = models.load(config, name, workdir)
    if len(target.shape) != 3 or target.shape[-1] not in (1, 3):
        raise UserError(
            f"{name} has samples of shape {target.shape}, which are no images; set "
            "config.sample.target to something that has."
        )
    chosen = _chosen_schedule(config, workdir, name)
    images = [
        _draw(config, target, chosen, seeds[start : start + settings.batch])
        for start in range(0, len(seeds), settings.batch)
    ]
    path = workdir / f"samples-{name}.png" if output is None else Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    mosaic(np.concatenate(images)).save(path, format="PNG")
    return path


def _results(config: ConfigDict, cells: list[dict[str, Any]]) -> dict[str, Any]:
    summaries = {cell["target"]: cell.pop("target_summary") for cell in cells}
    return {
        "schedules": list(config.schedules),
        "seconds": sum(cell["seconds"] for cell in cells),
        "targets": list(summaries.values()),
        "cells": cells,
    }


def _save_schedules(workdir: Path, results: Results) -> None:
    """Writes the best schedule of each target, solver and number of calls."""
    (workdir / SCHEDULES).mkdir(exist_ok=True)
    for group in groups(results):
        name = group.best()
        # Of several warm-up seeds, the first one's: the others tell the spread.
        cell, record = group.cells[0], group.records(name)[0]
        details = {
            "schedule": name,
            "target": group.target,
            "solver": group.solver,
            "order": cell["order"],
            "nfe": group.nfe,
            "seed": cell["seed"],
            "error": float(np.mean(record["errors"])),
        }
        schedules.save(
            workdir / SCHEDULES / _file(group.target, group.solver, group.nfe),
            schedules.Schedule(
                np.array(record["sigmas"]),
                record.get("indices"),
                None,
                details | record["details"] | {"error": details["error"]},
                record.get("offsets"),
            ),
        )


def _file(target: str, solver: str, nfe: int) -> str:
    return f"{target}-{solver}-nfe{nfe}.json"


def _chosen_schedule(
    config: ConfigDict, workdir: Path, target: str
) -> schedules.Schedule:
    """Loads the schedule to sample with; its details name the solver and its order."""
    settings = config.sample
    own = gits_config.of_target(config, target)
    usual = settings.solver or own.solvers[-1]
    if settings.schedule:
        path = Path(settings.schedule)
    else:
        path = workdir / SCHEDULES / _file(target, usual, settings.nfe)
    if not path.is_file():
        raise UserError(
            f"There is no schedule {path}. Finish the benchmark in {workdir} first, "
            "or set config.sample.schedule to a schedule's JSON file."
        )
    try:
        found = schedules.load(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    solver = settings.solver or found.details.get("solver", usual)
    lookup.choose(solver, solvers.MAX_ORDER, what="The solver to sample with")
    order = gits_config.order(config, solver)
    if solver == found.details.get("solver"):
        order = found.details.get("order", order)
    else:
        found = found._replace(offsets=None)  # They are good for their solver only.
    return found._replace(details={"solver": solver, "order": order})


def _draw(
    config: ConfigDict,
    target: SampledModel,
    chosen: schedules.Schedule,
    seeds: Sequence[int],
) -> np.ndarray:
    """Samples one batch, filled up to its size; returns uint8 images."""
    count = config.sample.batch
    padded = [*seeds, *[seeds[-1]] * (count - len(seeds))]
    x = samplers.latents(padded, target.shape, float(chosen.sigmas[0]))
    solver, order = chosen.details["solver"], chosen.details["order"]
    run = samplers.sample(
        target.denoise(count),
        x,
        chosen.sigmas,
        solver,
        order,
        offsets=chosen.offsets,
    )
    return as_bytes(np.asarray(run.x[-1])[: len(seeds)])
