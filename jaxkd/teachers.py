"""Refuses a teacher that is worse than the networks that are to learn from it.

Distillation from such a teacher costs accuracy, and usually means that something is
wrong with it: too short a training, the wrong data, another view than it was made for.
A student's own accuracy is not known before it is trained. What is known is that of the
needed runs: an assistant, which has learnt from the same teacher, and ``baseline``, a
student trained without one, if the configuration needs such a run.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.training.build import Run, source_config
from jaxkd.training.results import Frozen
from jaxkd.training.workdir import RESULTS, read_json

TEACHER, BASELINE = "teacher", "baseline"


def check(run: Run, frozen: Mapping[str, Frozen]) -> None:
    """Compares the teacher with the assistants and the baseline.

    Only a difference of two standard errors counts, and only between figures of the
    same metric on as many images of one data set.

    Raises:
      UserError: if one of them is better than the teacher.
    """
    if TEACHER not in frozen or run.score.lower or not run.score.percent:
        return
    teacher = _result(run, frozen[TEACHER].source)
    for name, one in frozen.items():
        need = source_config(run.config.needs[name])
        other = _result(run, one.source)
        if name == BASELINE or (name != TEACHER and TEACHER in need.needs):
            _compare(run, name, teacher, other)


def _compare(run: Run, name: str, teacher: Any, other: Any) -> None:
    if not teacher or not other or teacher["on"] != other["on"]:
        return
    shares = [one["score"] for one in (teacher, other)]
    variance = sum(share * (1 - share) for share in shares)
    if shares[1] - shares[0] > 2 * math.sqrt(variance / teacher["on"][1]):
        raise UserError(
            f"The teacher's {run.score.label} is {100 * shares[0]:.1f} %, worse than "
            f"the {100 * shares[1]:.1f} % of {name!r}, which is no teacher but a "
            "network for students to be compared with or to learn from. A teacher "
            "that is worse than its student makes the student worse. Train the "
            "teacher longer (config.needs.teacher.duration); see that its data and "
            f"its view are those that it was made for; or make {name!r} the teacher."
        )


def _result(run: Run, source: Path) -> dict[str, Any] | None:
    """Returns a run's mean score and the images that it was measured on."""
    path = source / RESULTS
    if not path.exists():
        return None
    results = read_json(path)
    student = next(iter(results["students"].values()))
    values = student["last"].get(run.score.name)
    if values is None:
        return None
    on = results["data"]["name"], results["data"]["test_examples"]
    return {"score": float(np.mean(values)), "on": on}
