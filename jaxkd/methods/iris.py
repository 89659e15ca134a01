"""Super-resolution of irises by the mean squared error, and recognition after it.

The two-stage baseline of recognition across resolutions, after "Exploring Deep Learning
Image Super-Resolution for Iris Recognition" (arXiv:2311.01241).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.evaluators import iris, perceptual
from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.methods.common import super_resolution

PREDICTOR = "super_resolution"


def make(spec: Spec, *, lpips: str = "") -> Method:
    """Makes a network that enlarges irises, ``mean (x - truth)^2``.

    Args:
      spec: of the run.
      lpips: file of weights for LPIPS after training, see
        ``jaxkd.readers.lpips_weights``; empty for none.

    Raises:
      UserError: if sizes differ, the data have no circles, or LPIPS' file does not fit.
    """
    if "circles" not in spec.fields or "label" not in spec.fields:
        raise UserError(
            f"Method 'iris' got the fields {', '.join(spec.fields)}, expected circles "
            "and label beside the image, as of the data set 'irises'."
        )

    def loss(inputs: LossInputs) -> Loss:
        apart = inputs.outputs["image"] - inputs.batch[super_resolution.TRUTH]
        return Loss(jnp.mean(apart**2), inputs.model_state, {})

    perceptual.by_file(spec, lpips)  # which refuses a wrong file before training
    method = super_resolution.enlarger(spec, loss)
    return method._replace(evaluator=_evaluator(lpips))


# Cached, so that all students of a run are evaluated together.
@functools.cache
def _evaluator(lpips: str) -> Callable[[Any], EvaluationReport]:
    """Returns the evaluator: recognition, and LPIPS if there is a file."""

    def evaluate(trained: TrainedStudy) -> EvaluationReport:
        found = iris.find(trained)
        if not lpips:
            return found
        distances = perceptual.find(trained, lpips)
        scores = {
            student: {**found.scores[student], **distances.scores[student]}
            for student in found.scores
        }
        return EvaluationReport(scores, (), [*found.tables, *distances.tables])

    return evaluate
