"""Shows a training run while it runs: the progress line, a row for each evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxkd.core.study import Group
from jaxkd.core.types import Score
from jaxkd.core.writers import Progress
from jaxkd.report.statistics import decimals, estimate, format_estimate
from jaxkd.training.build import Run

Metrics = Mapping[str, Mapping[str, Any]]


class Display:
    """The progress of a run on the terminal, on the first process alone."""

    def __init__(self, run: Run, now: int):
        """Starts at step ``now``."""
        images = run.config.batch_size * len(run.draws)
        self._run = run
        self._progress = Progress(run.steps, now, run.config.name, images)
        self._finished: Metrics | None = None
        self._tested: dict[str, str] = {}

    def trained(self, step: int, metrics: Metrics) -> None:
        """Shows that a call has trained up to ``step``.

        Args:
          step: optimiser steps done, or under way.
          metrics: of the call. It may still be computed: what is shown is the loss of
            the one before.
        """
        loss = {}
        if self._finished is not None:
            loss = {"loss": _MeanLoss(self._run.groups, self._finished, step)}
        self._finished = metrics
        self._progress.update(step, **loss, **self._tested)

    def evaluated(self, step: int, last: Metrics) -> None:
        """Prints a row with each student's score.

        Args:
          step: at which they were evaluated.
          last: group -> metric -> ``[members]``, on the host.
        """
        score, examples = self._run.score, len(self._run.dataset.test)
        by_student = student_scores(self._run.groups, last, score, step)
        cells = {
            name: format_score(values, score, examples)
            for name, values in by_student.items()
        }
        sign = -1 if score.lower else 1
        best = max(by_student, key=lambda name: sign * float(np.mean(by_student[name])))
        self._tested = {f"test {score.name}": cells[best]}
        unit = " in %" if score.percent else ""
        row = ", ".join(f"{name} {cell}" for name, cell in cells.items())
        self._progress.print(
            f"{self._run.config.name}: step {step:,}/{self._run.steps:,}: test "
            f"{score.label}{unit}: {row if len(cells) > 1 else cells[best]}"
        )

    def close(self) -> None:
        """Leaves the terminal at the start of a fresh line."""
        self._progress.close()


class _MeanLoss:
    """The mean loss of the members that still train, read from the device if shown."""

    def __init__(self, groups: Sequence[Group], metrics: Metrics, step: int):
        self._groups, self._metrics, self._step = groups, metrics, step

    def __float__(self) -> float:
        values = [
            np.asarray(jax.device_get(self._metrics[group.name]["loss"]))[
                group.per_member([s.steps for s in group.students]) >= self._step
            ]
            for group in self._groups
        ]
        return float(np.mean(np.concatenate(values)))


def student_scores(
    groups: Sequence[Group], metrics: Metrics, score: Score, step: int
) -> dict[str, list[float]]:
    """Returns student -> score by seed, of the students that trained up to ``step``."""
    found: dict[str, list[float]] = {}
    for group in groups:
        ends = group.per_member([student.steps for student in group.students])
        values = np.asarray(metrics[group.name][score.name])
        for (name, _), end, value in zip(group.members, ends, values, strict=True):
            if end >= step:
                found.setdefault(name, []).append(float(value))
    return found


def format_score(values: Sequence[float], score: Score, examples: int) -> str:
    """Formats a score of one value a seed as the study table does."""
    scale = 100 if score.percent else 1
    return format_estimate(estimate(values), decimals(score, examples), scale=scale)
