"""Accuracy by resolution: what a trained student makes of ever smaller images.

Test images are reduced to each side and brought back to the side that the student
reads, as somebody does who has images of another size than it was trained for.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Spec
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import standard_error
from jaxkd.report.style import WIDTH, Theme, canvas, line_styles, printable, themes
from jaxkd.views import degrade

NAME = "resolution"


def by_size(
    spec: Spec, sides: tuple[int, ...], kernel: str = "area"
) -> Callable[[Any], EvaluationReport] | None:
    """Returns a method's evaluator, or None for no sides.

    Args:
      spec: of the run.
      sides: to which images are reduced.
      kernel: that reduces them, one of ``degrade.KERNELS``.

    Raises:
      UserError: if a side is larger than the images.
    """
    if not sides:
        return None
    most = min(spec.fields["image"].shape[-3:-1])
    if min(sides) < 1 or max(sides) > most:
        raise UserError(
            f"eval_sizes is {tuple(sides)}, expected sides from 1 to {most}."
        )
    return _curve(tuple(sorted(sides)), kernel, spec.input_key, spec.image_shape[-2])


# Cached, so that all students of a run are evaluated together.
@functools.cache
def _curve(sides: tuple[int, ...], kernel: str, input_key: str, own: int):
    def evaluate(trained: TrainedStudy) -> EvaluationReport:
        right = {
            side: _accuracies(trained, _seen_at(trained, side, kernel, input_key, own))
            for side in sides
        }
        students = trained.by_student()
        scores = {
            student: {
                f"top1_at_{side}": [right[side][member.student, member.seed]
                                    for member in members]
                for side in sides
            }
            for student, members in students.items()
        }  # fmt: skip
        for path, theme in themes(trained.folder / NAME):
            _draw(
                path,
                line_styles(trained.student_order, theme),
                theme,
                scores,
                sides,
                own,
            )
        caption = (
            f"Test images reduced to each side ({kernel}) and brought to the "
            f"{own} pixels that the students read; means over seeds, bars: standard "
            "errors."
        )
        figure = Figure(NAME, "Accuracy by resolution", caption)
        return EvaluationReport(scores, [figure], [_table(scores, sides, caption)])

    return evaluate


def _seen_at(trained: TrainedStudy, side: int, kernel: str, input_key: str, own: int):
    back = "bicubic_aa" if side < own else kernel

    def view(batch: Batch) -> Batch:
        seen = trained.view.evaluate(batch)
        small = degrade.resize(seen["image"], side, kernel)
        return {**seen, input_key: degrade.resize(small, own, back)}

    return view


def _accuracies(trained: TrainedStudy, view) -> dict[tuple[str, int], float]:
    """Returns each member's accuracy under a view."""
    hits: dict[tuple[str, int], int] = {}
    total = 0
    for batch in trained.batches(view=view):
        mask, labels = np.asarray(batch["mask"]), np.asarray(batch["label"])
        total += int(mask.sum())
        for member, predicted in _predictions(trained.members, batch):
            name = member.student, member.seed
            hits[name] = hits.get(name, 0) + int(((predicted == labels) & mask).sum())
    return {name: count / total for name, count in hits.items()}


def _predictions(
    members: tuple[Member, ...], batch: Batch
) -> Iterator[tuple[Member, np.ndarray]]:
    for member in members:
        yield member, np.asarray(member.predict(batch)["logits"]).argmax(axis=-1)


def _draw(path, styles, theme: Theme, scores, sides: tuple[int, ...], own: int) -> None:
    with canvas(path, (WIDTH, 4.0), theme, layout="constrained") as figure:
        axes = figure.subplots()
        for student, found in scores.items():
            values = 100 * np.array([found[f"top1_at_{side}"] for side in sides])
            look = styles[student]
            axes.errorbar(
                sides,
                values.mean(axis=1),
                [standard_error(row) for row in values],
                color=look.color,
                linestyle=look.dash,
                linewidth=look.width,
                capsize=2,
                label=printable(student),
            )
        axes.axvline(own, color=theme.muted, linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.minorticks_off()
        axes.set_xlabel("side that the images were reduced to, pixels")
        axes.set_ylabel("top-1, %")
        axes.legend(
            frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
        )


def _table(scores, sides: tuple[int, ...], caption: str) -> Table:
    rows = [["top-1 % at side", *map(str, sides)]]
    for student, found in scores.items():
        means = [np.mean(found[f"top1_at_{side}"]) for side in sides]
        rows.append([student, *(f"{100 * mean:.1f}" for mean in means)])
    return Table("Accuracy by resolution", rows, caption)
