"""Timing in alternating blocks, and what one needs to know to read the figures.

Contestants take turns (A B C A B C ...), so that a machine that slows down or is busy
with other work slows all of them down. Ratios are taken between blocks of one round.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Contestant(NamedTuple):
    """Something to time.

    Attributes:
      name: unique among those timed together.
      run: does so many steps, and returns when they are done.
    """

    name: str
    run: Callable[[int], Any]


class Timing(NamedTuple):
    """Seconds per step, one entry per block.

    Attributes:
      steps: in each block.
      wall: wall-clock time.
      cpu: CPU time of the process, all threads together.
    """

    steps: int
    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def alternate(
    contestants: Sequence[Contestant], rounds: int, seconds: float
) -> dict[str, Timing]:
    """Times contestants in alternating blocks of about ``seconds`` each.

    All run once beforehand, untimed, until they are warm and the number of steps in a
    block of theirs is known.
    """
    steps = {one.name: _block_length(one, seconds) for one in contestants}
    blocks: dict[str, list[tuple[float, float]]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            blocks[one.name].append(_time(one, steps[one.name]))
    return {
        name: Timing(steps[name], *map(tuple, zip(*pairs, strict=True)))
        for name, pairs in blocks.items()
    }


def _block_length(contestant: Contestant, seconds: float) -> int:
    steps, per_step = 1, _time(contestant, 1)[0]
    while steps * per_step < seconds / 4:
        steps *= 4
        per_step, _ = _time(contestant, steps)
    return max(round(seconds / per_step), 1)


def _time(contestant: Contestant, steps: int) -> tuple[float, float]:
    # Threads of the contestant before may still spin for some milliseconds.
    time.sleep(0.1)
    wall, cpu = time.perf_counter(), time.process_time()
    contestant.run(steps)
    return (
        (time.perf_counter() - wall) / steps,
        (time.process_time() - cpu) / steps,
    )


def as_dicts(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """Returns timings as plain dictionaries, for JSON."""
    return {name: timing._asdict() for name, timing in timings.items()}


class Spread(NamedTuple):
    """Median, least and greatest of a measurement's blocks."""

    median: float
    low: float
    high: float

    def text(self, scale: float = 1.0) -> str:
        """Writes ``median (low to high)``, each times ``scale``."""
        digits = 2 if scale * self.median < 100 else 0
        median, low, high = (f"{scale * value:.{digits}f}" for value in self)
        return f"{median} ({low} to {high})"


def spread(values: Sequence[float]) -> Spread:
    """Summarises the blocks of one measurement."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Summarises the ratios between blocks of the same round."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes rows with the same keys as a Markdown table."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])

    def write(line):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        return f"| {' | '.join(cells)} |"

    return "\n".join(write(line) for line in lines)


def machine() -> dict[str, Any]:
    """Describes hardware, versions and threads."""
    versions = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "flax", "optax", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cpu": _cpu_name(),
        "cores": _cores(),
        "load": load(),
        "versions": versions,
        "environment": {
            name: os.environ[name]
            for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "JAX_PLATFORMS")
            if name in os.environ
        },
    }


def describe(machine: dict[str, Any]) -> str:
    """Writes the description of a machine in one line."""
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    settings = "".join(f", {name}={v}" for name, v in machine["environment"].items())
    return (
        f"{machine['device']}; {machine['cpu']}, {machine['cores']} cores; "
        f"{versions}{settings}; load average {machine['load']}"
    )


def _cores() -> int:
    """Counts the cores this process may use, which taskset and cgroups limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """Returns the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
