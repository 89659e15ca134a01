"""Evaluators: metrics, tables and figures computed once after training.

A method whose networks want more than means over examples (a ROC curve, ten folds of
pairs, a sweep over disturbed images, heat maps) has an ``evaluator``, a function
``TrainedStudy -> EvaluationReport``. It runs on the host of the first process, and its
report joins the results, the terminal's table and the HTML page.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jaxkd.core.source import Dataset, Source
from jaxkd.core.types import Batch, Method, ModelState, Outputs, Params
from jaxkd.datasets import batching
from jaxkd.report.items import Figure, Table
from jaxkd.report.style import StudentOrder
from jaxkd.views.ops import View


class Member(NamedTuple):
    """A trained network: its student and seed, its variables, its predictions.

    Attributes:
      student: row of the study.
      seed: of its training.
      params: on the host, as the method's ``predict`` takes them.
      model_state: likewise.
      predict: ``batch -> outputs``, compiled; for batches as ``TrainedStudy.batches``
        yields them.
    """

    student: str
    seed: int
    params: Params
    model_state: ModelState
    predict: Callable[[Batch], Outputs]


class TrainedStudy(NamedTuple):
    """All members of a study that share an evaluator.

    Attributes:
      method: of the first of them.
      members: networks, by student and seed.
      seeds: of the study.
      dataset: that it was trained on.
      view: likewise.
      batch_size: of ``batches``.
      folder: for figures, ``figures/`` of the run.
      student_order: all students of the run, as its other figures draw them.
    """

    method: Method
    members: tuple[Member, ...]
    seeds: tuple[int, ...]
    dataset: Dataset
    view: View
    batch_size: int
    folder: Path
    student_order: StudentOrder

    def batches(
        self,
        source: Source | None = None,
        view: Callable[[Batch], Batch] | None = None,
    ) -> Iterator[Batch]:
        """Yields examples once, in order, the last batch padded.

        Args:
          source: the examples; None for the test examples.
          view: what the networks see of a batch; None for the evaluation view.

        Yields:
          Batches as the view leaves them, with ``mask`` False on padding.
        """
        see = jax.jit(view or self.view.evaluate)
        for batch in batching.eval_batches(
            self.dataset.test if source is None else source,
            self.dataset.prepare_test,
            self.batch_size,
            info=self.dataset.info,
        ):
            yield see(dict(batch))

    def by_student(self) -> dict[str, list[Member]]:
        """Returns the members of each student, in the order of the seeds."""
        found: dict[str, list[Member]] = {}
        for member in sorted(self.members, key=lambda one: self.seeds.index(one.seed)):
            found.setdefault(member.student, []).append(member)
        return found


class EvaluationReport(NamedTuple):
    """What an evaluator computed.

    Attributes:
      scores: student -> metric -> one value per seed; joins the last evaluation's,
        whose names it must not repeat.
      figures: for the report.
      tables: for the report and the terminal.
    """

    scores: Mapping[str, Mapping[str, Sequence[float]]] = {}
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def without(
    scores: Mapping[str, Mapping[str, Sequence[float]]], *names: str
) -> dict[str, dict[str, Sequence[float]]]:
    """Leaves out scores that tables show and the last evaluation has already."""
    return {
        student: {key: values for key, values in found.items() if key not in names}
        for student, found in scores.items()
    }
