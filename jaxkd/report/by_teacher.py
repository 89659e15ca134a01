"""Students' scores against their teacher's, over runs that differ in the teacher.

One run is one point: how good its teacher is on the test examples, and how good the
students became. Together they tell from which teacher on a loss is worth taking.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxkd.report.statistics import (
    Curve,
    Estimate,
    Results,
    decimals,
    estimate,
    format_estimate,
    score,
)

TEACHER = "teacher"


class ByTeacher(NamedTuple):
    """Scores of the students that all runs have, by their teacher's score.

    Attributes:
      table: the first row the heading; one row a run, the best teacher first.
      curves: one a student; its steps are the teachers' scores, increasing.
      left_out: students that not all runs have.
    """

    table: list[list[str]]
    curves: list[Curve]
    left_out: list[str]


def collect(runs: Mapping[str, Results]) -> ByTeacher | None:
    """Arranges the students' last scores by their teacher's.

    Args:
      runs: label -> content of ``results.json``, of one metric.

    Returns:
      None if a run has no teacher of a known score, or no student is in all runs, or
      all teachers are equally good: then there is nothing to draw it against.
    """
    each = list(runs.values())
    by = score(each[0])
    teachers = [teacher_score(results, by.name) for results in each]
    common = [n for n in each[0]["students"] if all(n in r["students"] for r in each)]
    known = [one.mean for one in teachers if one is not None]
    if len(known) < len(each) or len(set(known)) < 2 or not common:
        return None
    scale = 100 if by.percent else 1
    places = decimals(by, min(one["data"]["test_examples"] for one in each))
    found = [
        {name: estimate(one["students"][name]["last"][by.name]) for name in common}
        for one in each
    ]
    order = np.argsort(known, kind="stable")
    show = partial(format_estimate, places=places, scale=scale)
    labels = list(runs)
    rows = [
        [labels[place], show(teachers[place]), *map(show, found[place].values())]
        for place in order[::-1]
    ]
    return ByTeacher(
        [["run", TEACHER, *common], *rows],
        [_curve(name, scale, known, found, order) for name in common],
        sorted({name for one in each for name in one["students"]} - set(common)),
    )


def teacher_score(results: Results, metric: str) -> Estimate | None:
    """Returns the score of a run's teacher on the run's own test examples.

    Of several networks of earlier runs it is the one called ``teacher``. None if there
    is no such network, or its score is not known.
    """
    networks: Mapping[str, Any] = results["frozen"]
    if len(networks) == 1:
        network = next(iter(networks.values()))
    elif TEACHER in networks:
        network = networks[TEACHER]
    else:
        return None
    values = network.get("by_seed", {}).get(metric)
    value = network.get(metric)
    if values is None and value is None:
        return None
    found = estimate([value]) if values is None else estimate(values)
    return found if math.isfinite(found.mean) else None


def _curve(
    name: str,
    scale: float,
    teachers: Sequence[float],
    found: Sequence[Mapping[str, Estimate]],
    order: np.ndarray,
) -> Curve:
    """Returns a student's scores, with NaN where a run has fewer seeds than others."""
    seeds = max(len(one[name].values) for one in found)
    values = np.full((len(order), seeds), np.nan)
    for row, place in enumerate(order):
        own = found[place][name].values
        values[row, : len(own)] = own
    return Curve(name, scale * np.array(teachers)[order], scale * values)
