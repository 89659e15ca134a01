"""The page of the sampling benchmark, and what its figures of trajectories show."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxkd.core import files
from jaxkd.diffusion import samplers, schedules
from jaxkd.diffusion.search import gits
from jaxkd.pipelines.gits import config as gits_config
from jaxkd.pipelines.gits import figures, models, trajectories
from jaxkd.pipelines.gits import results as gits_results
from jaxkd.pipelines.gits.densities import SampledModel
from jaxkd.pipelines.gits.results import CellGroup, Results
from jaxkd.report import page as report

# The solver whose schedules are drawn, where it is among those measured.
SHOWN = "ipndm"


def draw(config: ConfigDict, workdir: Path, results: Results) -> None:
    """Draws all figures into ``figures/``, for light and for dark pages."""
    found = {
        summary["name"]: gits_results.of_target(results, summary["name"])
        for summary in results["targets"]
    }
    jobs = {"best": partial(figures.by_solver, found=found)}
    for summary in results["targets"]:
        name = summary["name"]
        target = models.load(config, name, workdir)
        jobs |= _target_jobs(config, target, found[name], summary)
    for name, job in jobs.items():
        report.picture(workdir, name, job)


def write(workdir: Path, results: Results) -> Path:
    """Writes ``report.html``, with the figures in it."""
    targets = [
        {
            "summary": summary,
            "about": gits_results.about(summary),
            "table": gits_results.table(results, summary["name"]),
            "verdict": gits_results.verdict(results, summary["name"]),
            "every": every(results, summary["name"]),
            "pictures": {
                kind: report.drawn(workdir, f"{kind}-{summary['name']}")
                for kind in KINDS
                if (workdir / "figures" / f"{kind}-{summary['name']}.png").exists()
            },
        }
        for summary in results["targets"]
    ]
    content = {
        "results": results,
        "setting": gits_results.setting(results),
        "notes": gits_results.notes(results),
        "best": report.drawn(workdir, "best"),
        "targets": targets,
        "config": (workdir / "config.json").read_text(encoding="utf-8"),
    }
    path = workdir / "report.html"
    page = report.render("gits.html.j2", content)
    files.write_text(path, page)
    return path


KINDS = ("error", "frechet", "schedules", "cost", "trajectories", "along")


def every(results: Results, target: str) -> list[list[str]]:
    """Returns all measurements of a target as text cells, its first row the heading.

    Of searched schedules the first seed's: the metric and coefficient of GITS, or where
    a fit started; the model calls, one for each sample, and the seconds of the search.
    """
    heading = ["", "NFE", "schedule", "1000 × error", "Fréchet", "by", "calls", "s"]
    lines = [heading]
    for (solver, nfe), group in gits_results.of_target(results, target).items():
        best = group.best()
        for name in group.names:
            distance = group.frechet(name)
            lines.append(
                [
                    solver,
                    str(nfe),
                    f"{name} (best)" if name == best else name,
                    _with_error(group, name),
                    "–" if distance is None else f"{distance:.3g}",
                    *_search(group.records(name)[0]["details"]),
                ]
            )
    return lines


def _search(details: dict[str, Any]) -> tuple[str, str, str]:
    """Returns how a schedule was found, with how many calls and in how many seconds."""
    if not details:
        return "", "", ""
    if "metric" in details:  # GITS, whose seconds all cells of a target share
        return f"{details['metric']} {details['coeff']:g}", f"{details['calls']:,}", ""
    return details["start"], f"{details['calls']:,}", f"{details['seconds']:.1f}"


def _target_jobs(
    config: ConfigDict,
    target: SampledModel,
    found: dict[tuple[str, int], CellGroup],
    summary: dict[str, Any],
) -> dict[str, Any]:
    name = summary["name"]
    solvers = [solver for solver, _ in found]
    shown = SHOWN if SHOWN in solvers else solvers[0]
    measured = trajectories.measure(config, target)
    jobs = {
        "error": partial(figures.by_schedule, found=found),
        "schedules": partial(figures.schedule_sigmas, found=found, solver=shown),
        "cost": partial(figures.cost, **_costs(config, target)),
        "trajectories": partial(trajectories.trajectories, shape=measured),
        "along": partial(trajectories.along, shape=measured),
    }
    floor = summary["frechet_exact"]
    if floor is not None:
        jobs["frechet"] = partial(
            figures.by_schedule, found=found, frechet=True, floor=floor
        )
    return {f"{kind}-{name}": job for kind, job in jobs.items()}


def _costs(config: ConfigDict, target: SampledModel) -> dict[str, Any]:
    """Returns the cost matrix of a warm-up batch, and two paths through it."""
    config = gits_config.of_target(config, target.name)
    grid = schedules.polynomial(config.gits.grid, target.sigma_min, target.sigma_max)
    x = samplers.latents(range(config.batch), target.shape, target.sigma_max)
    run = samplers.sample(
        target.denoise(config.batch), x, grid, "ipndm", 4, keep_denoised=True
    )
    # The deviation sees no errors along the chord, which is most of a plane.
    metric = config.gits.metrics[0]
    if x[0].size < 16 and "l2" in config.gits.metrics:
        metric = "l2"
    matrix = gits.cost_matrix(run.x, run.denoised, grid, metric)
    calls = sorted({min(config.nfe), max(config.nfe)})
    plans = {f"{nfe} steps": gits.plan(matrix, nfe + 1, 1.0) for nfe in calls}
    return {
        "matrix": jax.device_get(matrix),
        "grid": grid,
        "plans": plans,
        "metric": metric,
    }


def _with_error(group: CellGroup, name: str) -> str:
    found = group.score(name)
    text = f"{1000 * found.mean:.3g}"
    return text if found.error is None else f"{text} ± {1000 * found.error:.2g}"
