"""Draws ROC curves of a study's students."""

from collections.abc import Mapping

import numpy as np

from jaxkd.evaluators.base import TrainedStudy
from jaxkd.report.style import (
    WIDTH,
    canvas,
    line_styles,
    logarithmic,
    printable,
    themes,
)


def draw(
    trained: TrainedStudy,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: tuple[str, str],
    least: float | None = None,
) -> None:
    """Draws ``figures/verification``: one line for each student.

    Args:
      trained: whose figure it is.
      curves: student -> false and true acceptance, as in ``metrics.verification.roc``.
      labels: of the two axes.
      least: where a logarithmic first axis begins; None leaves it linear.
    """
    for path, theme in themes(trained.folder / "verification"):
        styles = line_styles(trained.student_order, theme)
        with canvas(path, (WIDTH, 4.0), theme, layout="constrained") as figure:
            axes = figure.subplots()
            for student, curve in curves.items():
                axes.plot(
                    *curve,
                    color=styles[student].color,
                    linestyle=styles[student].dash,
                    label=printable(student),
                )
            if least is not None:
                axes.set_xlim(least, 1)
                logarithmic(axes, "x")
            axes.set_xlabel(labels[0])
            axes.set_ylabel(labels[1])
            axes.legend(frameon=False, fontsize=8)
