"""AIRD: instances and relations are distilled, then batch norm adapts to the test.

"Adaptable instance-relation distillation" (arXiv:2409.02049): a student of small
images learns single images and relations from a teacher of large ones; afterwards,
without labels and without gradients, the statistics of its batch normalisation follow
the images it meets (``jaxkd.evaluators.test_time_adaptation``). The formulas are not
public.
"""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.ranges import Stretch
from jaxkd.core.types import LossInputs, Method, Spec
from jaxkd.evaluators import test_time_adaptation
from jaxkd.methods.common import adapters, distillation


def make(
    spec: Spec,
    *,
    instance_weight: float = 1.0,
    relation_weight: float = 1.0,
    distance_weight: float = 1.0,
    kd_weight: float = 0.0,
    ce_weight: float = 1.0,
    temperature: float = 0.1,
    kd_temperature: float = 4.0,
    warmup: float = 0.0,
    fade: Stretch | None = None,
    adapt: bool = True,
    disturbances: tuple[str, ...] = ("rough",),
) -> Method:
    """Makes a student of ``ce_weight * CE + instance * (1 - cos) + relation * contrast
    + distance * L2``.

    Args:
      spec: the run.
      instance_weight: weight of one minus the cosine between the student's pooled
        features, behind a linear map, and the teacher's.
      relation_weight: weight of ``losses.instance_contrast`` of the same.
      distance_weight: weight of ``losses.second_order`` of the pooled features.
      kd_weight: weight of the divergence of the logits times the squared temperature.
      ce_weight: of the cross entropy with the labels.
      temperature: of the contrast.
      kd_temperature: of KD.
      warmup: units over which the distillation's weight rises.
      fade: units between which it falls to 0, linearly; None keeps it.
      adapt: whether to measure, after training, what adapting batch norm gives on
        disturbed test images.
      disturbances: of those images, some of ``test_time_adaptation.DISTURBANCES``.

    Raises:
      UserError: if the run needs no teacher, or an option is out of its range.
    """

    def pooled(outputs, targets):
        teacher = targets["teacher"]["features"]["pooled"]
        return outputs["features"]["pooled"], teacher

    def near(inputs: LossInputs):
        s, t = pooled(inputs.outputs, inputs.targets)
        s = adapters.project(inputs.params, s, t.shape[-1])
        return losses.first_order(s, t) / 2

    def related(inputs: LossInputs):
        s, t = pooled(inputs.outputs, inputs.targets)
        s = adapters.project(inputs.params, s, t.shape[-1])
        labels = inputs.batch["label"]
        return losses.instance_contrast(s, t, labels, temperature=temperature)

    def apart(inputs: LossInputs):
        return losses.second_order(*pooled(inputs.outputs, inputs.targets), form="gram")

    def soften(inputs: LossInputs):
        logits = inputs.outputs["logits"], inputs.targets["teacher"]["logits"]
        return jnp.mean(losses.kd(*logits, temperature=kd_temperature))

    terms = {
        "instance": (instance_weight, near),
        "relation": (relation_weight, related),
        "distance": (distance_weight, apart),
        "kd": (kd_weight, soften),
    }
    needed = ("teacher",) if any(weight for weight, _ in terms.values()) else ()
    method = distillation.student(
        spec, "aird", terms, needed, ce_weight=ce_weight, warmup=warmup, fade=fade
    )
    method = adapters.with_projection(method, spec, spec.frozen)
    return method._replace(
        evaluator=test_time_adaptation.report(spec, disturbances) if adapt else None
    )
