"""MLKD: logits matched by example, batch and class, on two views (CVPR 2023).

Jin et al., "Multi-Level Logit Distillation". The student sees each image twice, in the
usual view and in a stronger one: a step costs about twice as much as other methods'.
"""

import functools
from collections.abc import Callable, Sequence

import jax

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Loss, LossInputs, Method, ModelState, Params, Spec
from jaxkd.losses.multilevel import MASKED, TEMPERATURES
from jaxkd.methods.common import classification, distillation
from jaxkd.methods.common.terms import Term, add_up


def make(
    spec: Spec,
    *,
    masked: str = "per_sample",
    temperatures: Sequence[float] = TEMPERATURES,
    mlkd_weight: float = 0.9,
    ce_weight: float = 0.1,
    warmup: float = 0.0,
    standardize: bool = False,
) -> Method:
    """Makes a student of ``ce_weight * (CE + strong CE) + mlkd_weight * MLKD``.

    ``ce``, ``top1`` and ``teacher_top1`` are measured on the usual view. Batch
    statistics move twice a step, first by the usual view and then by the strong one.

    Args:
      spec: the run; its view must make a strong view.
      masked: "per_sample" leaves out the rows and classes of which the teacher is more
        confident, as the paper describes; "official" does as the code of the published
        numbers. See ``losses.mlkd``.
      temperatures: over which the term is summed.
      mlkd_weight: of the term.
      ce_weight: of the cross entropy of each view with the labels.
      warmup: units over which the term's weight rises.
      standardize: whether logits are standardised first (arXiv:2403.01427).

    Raises:
      UserError: if the run needs no teacher or makes no strong view, or ``masked`` is
        unknown.
    """
    teacher = distillation.teacher_outputs(spec, "teacher", "mlkd")
    lookup.choose(masked, dict.fromkeys(MASKED), what="masked")
    if "strong" not in spec.fields:
        raise UserError(
            "Method 'mlkd' compares two views of an image, of which config.view makes "
            "one. Set config.view.name = 'weak_strong', or choose method 'mlkd_noaug'."
        )

    def term(inputs: LossInputs):
        logits = [
            inputs.outputs["logits"],
            inputs.targets["teacher"]["logits"],
            inputs.outputs["strong"]["logits"],
            inputs.targets["teacher_strong"]["logits"],
        ]
        if standardize:
            logits = [losses.standardize(each) for each in logits]
        return losses.mlkd(*logits, masked=masked, temperatures=temperatures)

    def strong_cross_entropy(inputs: LossInputs):
        return classification.cross_entropy(inputs.outputs["strong"], inputs.batch)

    method = distillation.student(
        spec,
        "mlkd",
        {"mlkd": (mlkd_weight, term)},
        ce_weight=ce_weight,
        warmup=warmup,
        targets={"teacher_strong": _strong_logits(teacher)},
        logits_only=True,
    )
    strong = {"strong_ce": Term(ce_weight, strong_cross_entropy)}

    def loss(inputs: LossInputs) -> Loss:
        usual, extra_view = method.loss(inputs), add_up(inputs, strong)
        return Loss(
            usual.value + extra_view.value,
            usual.model_state,
            usual.metrics | extra_view.metrics,
        )

    return method._replace(forward=_both_views(method.forward), loss=loss)


# Cached, so that students of one network hold the same functions and share them.
@functools.cache
def _both_views(forward: Callable) -> Callable:
    """Adds the outputs on the strong view, as ``outputs["strong"]``, to a forward."""

    def both(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        outputs, model_state = forward(params, model_state, batch, key)
        strong, model_state = forward(params, model_state, _strong(batch), key)
        return {**outputs, "strong": strong}, model_state

    return both


@functools.cache
def _strong_logits(outputs: Callable) -> Callable:
    """Makes a target of the logits on the strong view from that of the usual one."""

    def targets(frozen, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        return {"logits": outputs(frozen, _strong(batch), key)["logits"]}

    return targets


def _strong(batch: Batch) -> Batch:
    return {**batch, "image": batch["strong"]}
