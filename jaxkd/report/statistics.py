"""The statistics of a study: what a report says, before it is formatted.

A standard error is the sample standard deviation over seeds divided by the root of
their number. Differences to the reference student are taken seed by seed, because
students of one seed share their batches and augmentations.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.types import TOP1, Score

Results = Mapping[str, Any]


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
      mean: over seeds.
      error: standard error of the mean; None of a single seed.
      values: one per seed.
    """

    mean: float
    error: float | None
    values: tuple[float, ...]


class Row(NamedTuple):
    """What the study table says about one student.

    Attributes:
      name: of the student.
      method: the file in ``jaxkd/methods`` that trained it.
      last: test score after the final step; of accuracies, a fraction.
      best: the best test score of all evaluations; None if not recorded.
      difference: ``last`` minus the reference's, seed by seed; None without a
        reference and for the reference itself.
      wins: seeds in which it is better than the reference; None like ``difference``.
      steps: optimiser steps.
      parameters: of the trained network.
    """

    name: str
    method: str
    last: Estimate
    best: Estimate | None
    difference: Estimate | None
    wins: int | None
    steps: int
    parameters: int


def estimate(values: Sequence[float | None]) -> Estimate:
    """Returns mean and standard error of one value per seed (None: not finite)."""
    numbers = [math.nan if value is None else float(value) for value in values]
    error = None
    if len(numbers) > 1:
        error = float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))
    return Estimate(float(np.mean(numbers)), error, tuple(numbers))


def format_estimate(
    value: Estimate | float | None, places: int, sign: bool = False, scale: float = 100
) -> str:
    """Formats a mean with its standard error, ``mean ± error``; fractions in percent.

    Everywhere that a table or a figure prints ``±``, this is what prints it.

    Args:
      value: fraction; None and NaN give a dash.
      places: decimals.
      sign: whether to write a plus before positive numbers.
      scale: 100 for percent, 1 for what is no fraction.
    """
    mean = value.mean if isinstance(value, Estimate) else value
    if mean is None or math.isnan(mean):
        return "–"
    text = f"{scale * mean:{'+' if sign else ''}.{places}f}".replace("-", "−")
    if isinstance(value, Estimate) and value.error is not None:
        text += f" ± {scale * value.error:.{places}f}"
    return text


def decimals(by: Score, examples: int) -> int:
    """Returns how many decimals of a score are shown.

    Of a percentage, as many as the size of the test set supports.
    """
    if not by.percent:
        return 4
    return 2 if examples >= 5000 else 1


def plural(number: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> plural(1, "seed"), plural(2000, "seed")
    ('1 seed', '2,000 seeds')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_mean(values: Sequence[float], places: int, scale: float = 1) -> str:
    """Formats the mean of one value per seed with its standard error; no value as "".

    Args:
      values: one per seed.
      places: decimals.
      scale: 100 for fractions in percent.
    """
    if not len(values):
        return ""
    return format_estimate(estimate(list(values)), places, scale=scale)


def standard_error(values: Sequence[float]) -> float:
    """Returns the standard error of the mean of one value per seed; of one, 0."""
    return estimate(list(values)).error or 0.0


def study_rows(results: Results) -> list[Row]:
    """Computes the study table.

    Args:
      results: content of ``results.json``.

    Returns:
      One row per student, in the order of the configuration.
    """
    reference, by = results.get("reference"), score(results)
    base = None
    if reference is not None:
        base = estimate(results["students"][reference]["last"][by.name])
    return [
        _row(name, student, by, None if name == reference else base)
        for name, student in results["students"].items()
    ]


def score(results: Results) -> Score:
    """Returns the metric by which the students of a run are compared."""
    return Score(**results["score"]) if "score" in results else TOP1


def _row(name: str, student: Results, by: Score, base: Estimate | None) -> Row:
    last = estimate(student["last"][by.name])
    difference = wins = None
    if base is not None:
        pairs = zip(last.values, base.values, strict=True)
        difference = estimate([value - other for value, other in pairs])
        sign = -1 if by.lower else 1
        wins = sum(sign * value > 0 for value in difference.values)
    return Row(
        name=name,
        method=student["method"],
        last=last,
        best=estimate(student["best"][by.name]) if student.get("best") else None,
        difference=difference,
        wins=wins,
        steps=student["steps"],
        parameters=student["parameters"],
    )


class Curve(NamedTuple):
    """One student's metric over training.

    Attributes:
      name: of the student.
      steps: ``[points]``, increasing.
      values: ``[points, seeds]``, NaN where a seed has none.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray


def learning_curves(
    metrics: Sequence[Mapping[str, Any]], metric: str, students: Sequence[str]
) -> list[Curve]:
    """Collects a metric of every student from the metric lines.

    Args:
      metrics: what `read_metrics` returned.
      metric: such as ``"test_top1"``.
      students: names, in the order wanted.

    Returns:
      One curve per student for which the metric was written. Where a step was
      written twice, the later line counts.
    """
    found: dict[str, dict[int, dict[str, float]]] = {}
    for record in metrics:
        for key, value in record.items():
            head, _, tail = key.partition("/")
            if head == metric:
                name, _, seed = tail.rpartition("/")
                point = found.setdefault(name, {}).setdefault(record["step"], {})
                point[seed] = math.nan if value is None else value
    return [_curve(name, found[name]) for name in students if name in found]


def _curve(name: str, points: Mapping[int, Mapping[str, float]]) -> Curve:
    steps = sorted(points)
    seeds = sorted({seed for point in points.values() for seed in point})
    values = [[points[step].get(seed, math.nan) for seed in seeds] for step in steps]
    return Curve(name, np.array(steps, float), np.array(values))


def class_accuracies(counts: np.ndarray) -> np.ndarray:
    """Returns the fraction recognised of each class, NaN without examples.

    Args:
      counts: ``[classes, classes]``; row: true class, column: predicted class.
    """
    totals = counts.sum(1)
    shares = np.diagonal(counts) / np.maximum(totals, 1)
    return np.where(totals > 0, shares, np.nan)


def worst_classes(
    counts: np.ndarray, names: Sequence[str], number: int = 10
) -> list[dict[str, Any]]:
    """Finds the classes that are recognised least often.

    Args:
      counts: ``[classes, classes]``; row: true class, column: predicted class.
      names: of the classes.
      number: how many to return at most.

    Returns:
      For each class, the worst first: ``name``, ``accuracy`` (fraction), ``examples``
      and ``mistaken``, up to three pairs (name, fraction of the examples), the most
      frequent first. Classes without examples are left out.
    """
    totals, accuracies = counts.sum(1), class_accuracies(counts)
    order = [i for i in np.argsort(accuracies, kind="stable") if totals[i] > 0]
    result = []
    for i in order[:number]:
        others = counts[i].copy()
        others[i] = 0
        ranked = np.argsort(-others, kind="stable")[:3]
        result.append(
            {
                "name": names[i],
                "accuracy": float(accuracies[i]),
                "examples": int(totals[i]),
                "mistaken": [
                    (names[j], others[j] / totals[i]) for j in ranked if others[j]
                ],
            }
        )
    return result


def networks(results: Results) -> list[dict[str, Any]]:
    """Compares the sizes of the networks of a run.

    Returns:
      One dictionary per network of an earlier run and per distinct student network:
      ``role``, ``model``, ``parameters``, ``flops`` and the factors ``smaller`` and
      ``cheaper`` against the first network of an earlier run (None without one).
    """
    entries: dict[tuple[Any, ...], list[str]] = {}
    for name, network in [*results["frozen"].items(), *results["students"].items()]:
        key = (network["model"], network["parameters"], network.get("flops_per_image"))
        frozen = name in results["frozen"] and network is results["frozen"][name]
        entries.setdefault((frozen, *key), []).append(name)
    teacher = next(iter(results["frozen"].values()), None)
    lines = []
    for (frozen, model, parameters, flops), names in entries.items():
        smaller = cheaper = None
        if teacher is not None and not frozen:
            smaller = teacher["parameters"] / parameters
            if flops and teacher.get("flops_per_image"):
                cheaper = teacher["flops_per_image"] / flops
        everyone = not frozen and len(names) == len(results["students"])
        role = "all students" if everyone and len(names) > 1 else ", ".join(names)
        lines.append(
            {
                "role": role,
                "model": model,
                "parameters": parameters,
                "flops": flops,
                "smaller": smaller,
                "cheaper": cheaper,
            }
        )
    return lines
