"""What the cells of the sampling benchmark say: means, winners, comparisons, tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Results = Mapping[str, Any]

LETTERS = {
    "polynomial": "p",
    "logsnr": "l",
    "time-uniform": "u",
    "time-quadratic": "q",
    "gits": "G",
    "fit": "F",
    "fit-offsets": "O",
}
FITTED = ("fit", "fit-offsets")
# Numbers of calls over which fitted schedules are compared with the others.
COMPARED = range(5, 11)


class EndpointError(NamedTuple):
    """An end-point error: mean, its standard error (None of one block), its blocks."""

    mean: float
    error: float | None
    blocks: np.ndarray


class CellGroup(NamedTuple):
    """All seeds of a target, a solver and a number of calls."""

    target: str
    solver: str
    nfe: int
    cells: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """The schedules measured."""
        return list(self.cells[0]["schedules"])

    def records(self, name: str) -> list[dict[str, Any]]:
        """Returns one schedule's record of each seed."""
        return [cell["schedules"][name] for cell in self.cells]

    def score(self, name: str) -> EndpointError:
        """Returns one schedule's error over blocks and seeds."""
        return score([record["errors"] for record in self.records(name)])

    def frechet(self, name: str) -> float | None:
        """Returns one schedule's Fréchet distance, the mean over seeds."""
        values = [record["frechet"] for record in self.records(name)]
        return None if None in values else float(np.mean(values))

    def best(self, names: Iterable[str] | None = None) -> str:
        """Returns the schedule of the least mean error, of some or of all."""
        chosen = self.names if names is None else list(names)
        return min(chosen, key=lambda name: self.score(name).mean)


class Comparison(NamedTuple):
    """A fitted schedule beside the best of all others.

    Attributes:
      group: of which cells.
      rival: the other schedule of the least error.
      ratio: of the fitted one's error to the rival's.
      difference: of the errors, from the same latents, with its standard error.
    """

    group: CellGroup
    rival: str
    ratio: float
    difference: EndpointError

    @property
    def worse(self) -> bool:
        """Whether the fitted schedule is worse beyond the standard error."""
        return self.difference.mean > (self.difference.error or 0.0)


def score(errors: Sequence[Sequence[float]]) -> EndpointError:
    """Returns the mean of errors ``[seeds, blocks]``.

    Its standard error adds up what the latents' blocks and what the warm-up seeds
    spread, as far as there are several.
    """
    values = np.array(errors, np.float64)
    parts = [
        np.var(means, ddof=1) / len(means)
        for means in (values.mean(axis=0), values.mean(axis=1))
        if len(means) > 1
    ]
    error = math.sqrt(sum(parts)) if parts else None
    return EndpointError(float(values.mean()), error, values.mean(axis=0))


def groups(results: Results) -> list[CellGroup]:
    """Gathers the seeds of all cells, by target, solver and number of calls."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for cell in results["cells"]:
        key = cell["target"], cell["solver"], cell["nfe"]
        found.setdefault(key, []).append(cell)
    order = solver_names(results)
    keys = sorted(found, key=lambda key: (key[0], order.index(key[1]), key[2]))
    return [CellGroup(*key, found[key]) for key in keys]


def of_target(results: Results, target: str) -> dict[tuple[str, int], CellGroup]:
    """Returns the groups of a target by solver and number of calls."""
    chosen = [group for group in groups(results) if group.target == target]
    return {(group.solver, group.nfe): group for group in chosen}


def winner(results: Results, target: str, nfe: int) -> CellGroup | None:
    """Returns the cells with the least error at a number of calls."""
    found = of_target(results, target)
    there = [group for (_, calls), group in found.items() if calls == nfe]
    return min(there, key=lambda g: g.score(g.best()).mean) if there else None


def comparisons(results: Results, target: str, name: str = "fit") -> list[Comparison]:
    """Compares fitted schedules with the best other, at 5 to 10 calls if measured."""
    found = of_target(results, target).values()
    chosen = [group for group in found if group.nfe in COMPARED] or list(found)
    made = []
    for group in chosen:
        others = [other for other in group.names if other not in FITTED]
        if not others or name not in group.names:
            continue
        rival = group.best(others)
        fitted, other = (
            np.array([record["errors"] for record in group.records(one)])
            for one in (name, rival)
        )
        ratio = float(fitted.mean() / other.mean())
        made.append(Comparison(group, rival, ratio, score(fitted - other)))
    return made


def geometric_mean(values: Iterable[float]) -> float:
    """Returns the geometric mean."""
    return float(np.exp(np.mean(np.log(list(values)))))


def solver_names(results: Results) -> list[str]:
    """Lists the solvers measured, in the order of the configuration."""
    return list(dict.fromkeys(cell["solver"] for cell in results["cells"]))


def table(results: Results, target: str) -> list[list[str]]:
    """Returns the table of a target as text cells, its first row the heading.

    By solver and number of calls: 1000 times the end-point error on the best schedule,
    and that schedule's letter; at the end the solver that wins.
    """
    found = of_target(results, target)
    columns = sorted({nfe for _, nfe in found})
    lines = [["", *(f"NFE {nfe}" for nfe in columns), "ms/call"]]
    for solver in dict.fromkeys(solver for solver, _ in found):
        mine = [found.get((solver, nfe)) for nfe in columns]
        line = [solver]
        line += ["–" if group is None else _entry(group) for group in mine]
        per_call = [
            1000 * cell["seconds_per_call"]
            for group in mine
            if group is not None
            for cell in group.cells
        ]
        lines.append([*line, f"{np.median(per_call):.2g}"])
    won = [winner(results, target, nfe) for nfe in columns]
    names = ["–" if group is None else group.solver for group in won]
    return [*lines, ["winner", *names, ""]]


def _entry(group: CellGroup) -> str:
    name = group.best()
    return f"{1000 * group.score(name).mean:.3g} {LETTERS[name]}"


def setting(results: Results) -> str:
    """Describes the benchmark in one sentence."""
    seeds, measured = len(results["seeds"]), len(results["cells"])
    minutes, seconds = divmod(round(results["seconds"]), 60)
    platform = results["environment"]["platform"]
    return (
        f"{measured} cells of {len(solver_names(results))} solvers, "
        f"{len(results['targets'])} targets and {seeds} warm-up "
        f"{'seed' if seeds == 1 else 'seeds'}, in {minutes} min {seconds:02d} s on "
        f"{platform}."
    )


def about(summary: Mapping[str, Any]) -> str:
    """Describes a target in one sentence."""
    text = (
        f"{summary['about']}; {summary['dimension']} dimensions, sigma "
        f"{summary['sigma_max']:g} to {summary['sigma_min']:g}, {summary['latents']} "
        f"held-out latents in batches of {summary['batch']}. Error of the fine "
        f"solution about {summary['reference_error']:.1g}"
    )
    exact = summary["frechet_exact"]
    if exact is None:
        return text + "."
    return text + f"; its Fréchet distance on raw values to the data {exact:.3g}."


def notes(results: Results) -> list[str]:
    """Returns what a reader must know to read the tables."""
    used = [name for name in LETTERS if name in results["schedules"]]
    letters = ", ".join(f"{LETTERS[name]} {name}" for name in used)
    lines = [
        "1000 times the end-point error: the mean distance from the exact solution of "
        "the same latents, over the root of the dimension. The letter is the schedule "
        f"of least error: {letters}.",
        "NFE: model calls, counted. ms/call: of one batch, the solver's coefficients "
        "made anew for each; the median over a solver's cells.",
    ]
    if "gits" in used:
        lines.append(
            "gits takes the best of its metrics and coefficients on the very latents "
            "that errors are measured on: no choice made beforehand does better."
        )
    return lines


def verdict(results: Results, target: str) -> list[str]:
    """Says what fitted schedules gain on a target, and where they do not."""
    return [line for name in FITTED for line in _verdict(results, target, name)]


def _verdict(results: Results, target: str, name: str) -> list[str]:
    made = comparisons(results, target, name)
    if not made:
        return []
    whole = geometric_mean(one.ratio for one in made)
    by_solver = [
        f"{solver} {geometric_mean(ratios):.2f}"
        for solver in solver_names(results)
        if (ratios := [one.ratio for one in made if one.group.solver == solver])
    ]
    span = sorted({one.group.nfe for one in made})
    lines = [
        f"{name} over the better of gits and all fixed schedules, NFE {span[0]}–"
        f"{span[-1]}, geometric mean of the errors' ratios: {whole:.2f} "
        f"({', '.join(by_solver)})."
    ]
    worse = [
        f"{one.group.solver} NFE {one.group.nfe} ({one.ratio:.2f} of {one.rival})"
        for one in made
        if one.worse
    ]
    beyond = "; ".join(worse) if worse else "none"
    return [*lines, f"Worse beyond the standard error: {beyond}."]


def format_table(results: Results) -> str:
    """Formats the results for the terminal: a table for each target, and notes."""
    text = [f"{results['name']}: {setting(results)}"]
    for summary in results["targets"]:
        lines = table(results, summary["name"])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text += ["", f"{summary['name']}: {about(summary)}", ""]
        for first, *rest in lines:
            cells = [first.ljust(widths[0])]
            cells += [
                cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)
            ]
            text.append(("  " + "  ".join(cells)).rstrip())
        text += ["", *verdict(results, summary["name"])]
    return "\n".join([*text, "", *notes(results), ""])
