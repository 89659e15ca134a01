"""What is found out once, after training: all that is not a mean over examples.

A method whose networks want more than that (a ROC curve, ten folds of pairs, a sweep
over disturbed images, heat maps) has a function ``assess``. It runs on the host of the
first process, on what it is given here, and what it finds joins the results, the
terminal's table and the report.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jaxkd.core import sharding
from jaxkd.core.types import Batch, Extra, Method, Outputs, Params, TrainState
from jaxkd.datasets import batching
from jaxkd.datasets.source import Dataset, Source
from jaxkd.report.style import Cast
from jaxkd.views.ops import View

if TYPE_CHECKING:
    from jaxkd.training.build import Run


class Member(NamedTuple):
    """A trained network: its student and seed, its variables, and what it says.

    Attributes:
      student: row of the study.
      seed: of its training.
      params: on the host, as the method's ``predict`` takes them.
      extra: likewise.
      predict: ``batch -> outputs``, compiled; for batches as ``Trained.batches``
        yields them.
    """

    student: str
    seed: int
    params: Params
    extra: Extra
    predict: Callable[[Batch], Outputs]


class Trained(NamedTuple):
    """All members of a study that share a function ``assess``.

    Attributes:
      method: of the first of them.
      members: networks, by student and seed.
      seeds: of the study.
      dataset: that it was trained on.
      view: likewise.
      batch_size: of ``batches``.
      folder: for figures, ``figures/`` of the run.
      cast: all students of the run, as its other figures draw them.
    """

    method: Method
    members: tuple[Member, ...]
    seeds: tuple[int, ...]
    dataset: Dataset
    view: View
    batch_size: int
    folder: Path
    cast: Cast

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


class Figure(NamedTuple):
    """A picture in ``Trained.folder``.

    Attributes:
      name: of the file, without ``.png``; ``{name}-dark.png`` may lie beside it.
      title: of its section of the report.
      caption: below it.
    """

    name: str
    title: str
    caption: str = ""


class Table(NamedTuple):
    """A table of text cells.

    Attributes:
      title: above it.
      rows: the first is the heading.
      note: below it.
    """

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""


class Findings(NamedTuple):
    """What was found.

    Attributes:
      scores: student -> metric -> one value per seed; joins the last evaluation's.
      figures: for the report.
      tables: for the report and the terminal.
    """

    scores: Mapping[str, Mapping[str, Sequence[float]]] = {}
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def assess(run: "Run", state: Mapping[str, TrainState], workdir: Path) -> Findings:
    """Calls each of the study's ``assess`` functions once, with its members.

    Args:
      run: that was trained.
      state: at the end, by group.
      workdir: of the run.

    Returns:
      All findings, joined; nothing on processes other than the first.
    """
    members: dict[Callable[[Any], Any], list[Member]] = {}
    methods: dict[Callable[[Any], Any], Method] = {}
    for group in run.groups:
        by_name = {student.name: student.method for student in group.students}
        if not any(method.assess for method in by_name.values()):
            continue
        one = state[group.name]
        params, extra = sharding.fetch((one.eval_params, one.extra), run.mesh)
        predict = jax.jit(group.students[0].method.predict)
        for row, (student, seed) in enumerate(group.members):
            if function := by_name[student].assess:
                mine, rest = jax.tree.map(lambda x, row=row: x[row], (params, extra))
                say = functools.partial(predict, mine, rest)
                member = Member(student, seed, mine, rest, say)
                members.setdefault(function, []).append(member)
                methods.setdefault(function, by_name[student])
    if jax.process_index() > 0 or not members:
        return Findings()
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    found = [
        function(
            Trained(
                method=methods[function],
                members=tuple(mine),
                seeds=tuple(run.config.seeds),
                dataset=run.dataset,
                view=run.view,
                batch_size=run.config.eval_batch_size,
                folder=folder,
                cast=run.cast,
            )
        )
        for function, mine in members.items()
    ]
    return Findings(
        {name: scores for one in found for name, scores in one.scores.items()},
        [figure for one in found for figure in one.figures],
        [table for one in found for table in one.tables],
    )
