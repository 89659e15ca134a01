"""The cells of the sampling benchmark: one solver at one number of model calls.

A cell measures every schedule on the same held-out latents, is written to its own file
when it is done, and is not computed again.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest
from jaxkd.diffusion import denoisers, samplers, schedules
from jaxkd.diffusion.search import gits, least_squares
from jaxkd.pipelines import parts
from jaxkd.pipelines import workdir as folders
from jaxkd.pipelines.gits import config as gits_config
from jaxkd.pipelines.gits import models, reference
from jaxkd.pipelines.gits.models import SampledModel
from jaxkd.pipelines.gits.reference import Bench


class Cell(NamedTuple):
    """What is measured together."""

    target: str
    seed: int
    solver: str
    nfe: int

    @property
    def name(self) -> str:
        """Name of its part of the work."""
        return f"{self.target}-{self.seed}-{self.solver}-nfe{self.nfe}"


def plan(config: ConfigDict) -> list[Cell]:
    """Lists all cells; of each target those that take longest first."""
    return [
        Cell(target, seed, solver, nfe)
        for target in models.names(config)
        for own in (gits_config.of_target(config, target),)
        for seed in own.seeds
        for nfe in sorted(own.nfe, reverse=True)
        for solver in own.solvers
        if gits_config.num_sigmas(solver, nfe) is not None
    ]


def fill(
    config: ConfigDict, workdir: Path, stop_requested: StopRequest
) -> list[dict[str, Any]]:
    """Measures the cells that are not measured yet, and returns all.

    Raises:
      Interrupted: if asked to stop; all finished cells are on disk.
      UserError: if a model or a trajectory is not finite.
    """
    cells = {cell.name: cell for cell in plan(config)}
    drawn = config.batch * config.blocks * len(config.schedules)
    bench: Bench | None = None
    shown = config.name, drawn, stop_requested
    with closing(parts.pending(list(cells), workdir, *shown, unit="cell")) as missing:
        for name in missing:
            cell = cells[name]
            try:
                if bench is None or (bench.target.name, bench.seed) != cell[:2]:
                    bench = None  # Frees the last one first.
                    bench = reference.prepare(config, cell.target, cell.seed, workdir)
                    _note_network(workdir, bench.target)
                folders.keep(workdir, name, partial(measure, config, bench, cell))
            except ValueError as error:  # A denoiser that returns NaN, say.
                where = f"{cell.target}, {cell.solver}, {cell.nfe} model calls"
                raise UserError(f"{where}: {error}") from error
    return [folders.read(workdir, name) for name in cells]


def _note_network(workdir: Path, target: SampledModel) -> None:
    if target.network is not None:
        folders.note_network(workdir, target.name, *target.network)


@cache
def count_calls(solver: str, num_sigmas: int, order: int) -> int:
    """Counts what a solver asks of a denoiser, by asking one that counts."""
    counting, calls = denoisers.counted(lambda x, sigma: 0 * x)
    sigmas = schedules.polynomial(num_sigmas, 0.01, 1.0)
    with jax.disable_jit():
        samplers.sample(counting, jnp.ones((1, 1)), sigmas, solver, order)
    return calls.wait().calls


def measure(config: ConfigDict, bench: Bench, cell: Cell) -> dict[str, Any]:
    """Measures all schedules of a cell; returns plain data."""
    config = gits_config.of_target(config, cell.target)
    order = gits_config.order(config, cell.solver)
    records, fastest = {}, np.inf
    for name, candidates in _schedules(config, bench, cell, order):
        tries = [_tried(bench, one, cell.solver, order) for one in candidates]
        # Only GITS has several: its best coefficient is that on these very latents.
        best = min(tries, key=lambda one: np.mean(one.errors))
        records[name] = _record(bench.target, best)
        fastest = min(fastest, *(one.seconds for one in tries))
    num_sigmas = gits_config.num_sigmas(cell.solver, cell.nfe)
    assert num_sigmas is not None
    calls = count_calls(cell.solver, num_sigmas, order)
    return cell._asdict() | {
        "order": order,
        "counted": calls,
        "seconds_per_call": fastest / calls,
        "schedules": records,
        "target_summary": bench.summary,
    }


def _schedules(
    config: ConfigDict, bench: Bench, cell: Cell, order: int
) -> Iterator[tuple[str, list[schedules.Schedule]]]:
    """Yields the schedules to measure by name; several where the best counts."""
    ends = bench.target.sigma_min, bench.target.sigma_max
    num_sigmas = gits_config.num_sigmas(cell.solver, cell.nfe)
    assert num_sigmas is not None
    fixed = {
        "polynomial": lambda: schedules.polynomial(num_sigmas, *ends),
        "logsnr": lambda: schedules.logsnr(num_sigmas, *ends),
        "time-uniform": lambda: schedules.time_uniform(num_sigmas, *ends),
        "time-quadratic": lambda: schedules.time_uniform(num_sigmas, *ends, 2.0),
    }
    fitted = None
    for name in config.schedules:
        if name == "gits":
            yield name, _planned(config, bench, num_sigmas)
        elif name == "fit":
            fitted = _fitted(config, bench, cell, num_sigmas, order)
            yield name, [fitted]
        elif name == "fit-offsets":
            if cell.solver in gits_config.TWO_STAGES:
                continue
            if fitted is None:
                fitted = _fitted(config, bench, cell, num_sigmas, order)
            yield name, [_with_offsets(config, bench, cell, fitted, order)]
        else:
            try:
                yield name, [schedules.Schedule(fixed[name]())]
            except ValueError:  # No clock of that kind spans the range.
                continue


def _planned(
    config: ConfigDict, bench: Bench, num_sigmas: int
) -> list[schedules.Schedule]:
    """Plans by every metric and coefficient; equal plans are kept once."""
    plans: dict[tuple[int, ...], schedules.Schedule] = {}
    for metric, cost in bench.costs.items():
        for coeff in config.gits.coeffs:
            indices = gits.plan(cost, num_sigmas, coeff)
            details = {
                "metric": metric,
                "coeff": coeff,
                "calls": 2 * config.batch * (len(bench.grid) - 1),
            }
            plans.setdefault(
                tuple(indices.tolist()),
                schedules.Schedule(bench.grid[indices], indices, None, details),
            )
    return list(plans.values())


def _fitted(
    config: ConfigDict, bench: Bench, cell: Cell, num_sigmas: int, order: int
) -> schedules.Schedule:
    began = time.perf_counter()
    ends = bench.target.sigma_min, bench.target.sigma_max
    x_fit, x_valid = bench.warm_up
    found = least_squares.fit(
        bench.denoise,
        x_fit,
        x_valid,
        num_sigmas,
        solver=cell.solver,
        order=order,
        reference=reference.fine(config.fit.reference, ends),
        starts=config.fit.starts,
    )
    kept = {key: found.details[key] for key in ("start", "error", "calls")}
    return found._replace(details=kept | {"seconds": time.perf_counter() - began})


def _with_offsets(
    config: ConfigDict,
    bench: Bench,
    cell: Cell,
    fitted: schedules.Schedule,
    order: int,
) -> schedules.Schedule:
    began = time.perf_counter()
    ends = bench.target.sigma_min, bench.target.sigma_max
    x_fit, x_valid = bench.warm_up
    found = least_squares.add_offsets(
        bench.denoise,
        x_fit,
        x_valid,
        fitted,
        solver=cell.solver,
        order=order,
        reference=reference.fine(config.fit.reference, ends),
    )
    seconds = fitted.details["seconds"] + time.perf_counter() - began
    return found._replace(details=dict(found.details) | {"seconds": seconds})


class _Try(NamedTuple):
    """A schedule, its errors and samples by block, and the fastest block's seconds."""

    schedule: schedules.Schedule
    errors: list[float]
    ends: list[jax.Array]
    seconds: float


def _tried(bench: Bench, schedule: schedules.Schedule, solver: str, order: int) -> _Try:
    errors, ends, seconds = [], [], []
    for x, exact in zip(bench.held_out, bench.exact, strict=True):
        began = time.perf_counter()
        run = samplers.sample(
            bench.denoise,
            x,
            schedule.sigmas,
            solver,
            order,
            offsets=schedule.offsets,
        )
        ends.append(jax.block_until_ready(run.x[-1]))
        seconds.append(time.perf_counter() - began)
        errors.append(reference.end_error(ends[-1], exact))
    return _Try(schedule, errors, ends, min(seconds))


def _record(target: SampledModel, best: _Try) -> dict[str, Any]:
    """Returns what is kept of a schedule, as plain data."""
    record = {
        "sigmas": best.schedule.sigmas.tolist(),
        "errors": best.errors,
        "frechet": reference.distance(target, best.ends),
        "details": dict(best.schedule.details),
    }
    if best.schedule.indices is not None:
        record["indices"] = best.schedule.indices.tolist()
    if best.schedule.offsets is not None:
        record["offsets"] = best.schedule.offsets.tolist()
    return record
