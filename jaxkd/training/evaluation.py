"""Runs the evaluators of a study: what is computed once, after training."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxkd.core import console, sharding
from jaxkd.core.types import Method, TrainState
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.report.style import StudentOrder, order_students
from jaxkd.training.build import Run
from jaxkd.training.components import student_config


def student_order(run: Run) -> StudentOrder:
    """Returns the order and the roles of a run's students in figures."""
    methods = {
        student.name: student_config(run.config, student.name).method
        for student in run.students
    }
    return order_students(methods, run.config.reference or None)


def run_evaluators(
    run: Run, state: Mapping[str, TrainState], workdir: Path
) -> EvaluationReport:
    """Calls each of the study's evaluators once, with the members that share it.

    Args:
      run: that was trained.
      state: at the end, by group.
      workdir: of the run.

    Returns:
      All reports, joined; nothing on processes other than the first.
    """
    members: dict[Callable[[Any], Any], list[Member]] = {}
    methods: dict[Callable[[Any], Any], Method] = {}
    for group in run.groups:
        by_name = {student.name: student.method for student in group.students}
        if not any(method.evaluator for method in by_name.values()):
            continue
        one = state[group.name]
        params, rest = sharding.fetch((one.eval_params, one.model_state), run.mesh)
        predict = jax.jit(group.students[0].method.predict)
        for row, (student, seed) in enumerate(group.members):
            if evaluator := by_name[student].evaluator:
                own, state_ = jax.tree.map(lambda x, row=row: x[row], (params, rest))
                bound = functools.partial(predict, own, state_)
                member = Member(student, seed, own, state_, bound)
                members.setdefault(evaluator, []).append(member)
                methods.setdefault(evaluator, by_name[student])
    if jax.process_index() > 0 or not members:
        return EvaluationReport()
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    count = sum(map(len, members.values()))
    console.announce(
        f"{run.config.name}: evaluating {count} trained networks for tables and figures"
    )
    reports = [
        evaluator(
            TrainedStudy(
                method=methods[evaluator],
                members=tuple(trained),
                seeds=tuple(run.config.seeds),
                dataset=run.dataset,
                view=run.view,
                batch_size=run.config.eval_batch_size,
                folder=folder,
                student_order=student_order(run),
            )
        )
        for evaluator, trained in members.items()
    ]
    return EvaluationReport(
        {name: scores for one in reports for name, scores in one.scores.items()},
        [figure for one in reports for figure in one.figures],
        [table for one in reports for table in one.tables],
    )
