"""AIRD: instances and relations are distilled, then batch norm adapts to the test.

"Adaptable instance-relation distillation" (arXiv:2409.02049): a student of small
images learns single images and relations from a teacher of large ones; afterwards,
without labels and without gradients, the statistics of its batch normalisation follow
the images it meets (``jaxkd.evaluators.test_time_adaptation``). The formulas are not
public.
"""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.evaluators import test_time_adaptation
from jaxkd.methods import streams


def make(
    spec: Spec,
    *,
    instance: float = 1.0,
    relation: float = 1.0,
    distance: float = 1.0,
    kd: float = 0.0,
    ce_weight: float = 1.0,
    temperature: float = 0.1,
    kd_temperature: float = 4.0,
    warmup: float = 0.0,
    fade: tuple[float, float] | None = None,
    adapt: bool = True,
) -> Method:
    """Makes a student of ``ce_weight * CE + instance * (1 - cos) + relation * contrast
    + distance * L2``.

    Args:
      spec: the run.
      instance: weight of one minus the cosine between the student's pooled features,
        behind a linear map, and the teacher's.
      relation: weight of ``losses.instance_contrast`` of the same.
      distance: weight of ``losses.second_order`` of the pooled features.
      kd: weight of the divergence of the logits times the squared temperature.
      ce_weight: of the cross entropy with the labels.
      temperature: of the contrast.
      kd_temperature: of KD.
      warmup: units over which the distillation's weight rises.
      fade: units between which it falls to 0, linearly; None keeps it.
      adapt: whether to measure, after training, what adapting batch norm gives on
        disturbed test images.

    Raises:
      UserError: if the run needs no teacher, or an option is out of its range.
    """

    def pooled(outputs, targets):
        teacher = targets["teacher"]["features"]["pooled"]
        return outputs["features"]["pooled"], teacher

    def near(params, extra, outputs, batch, targets, key):
        del batch, key
        s, t = pooled(outputs, targets)
        s = streams.mapped(params, s, t.shape[-1])
        return losses.first_order(s, t) / 2, extra

    def related(params, extra, outputs, batch, targets, key):
        del key
        s, t = pooled(outputs, targets)
        s = streams.mapped(params, s, t.shape[-1])
        labels = batch["label"]
        return losses.instance_contrast(s, t, labels, temperature=temperature), extra

    def apart(params, extra, outputs, batch, targets, key):
        del params, batch, key
        return losses.second_order(*pooled(outputs, targets), form="gram"), extra

    def soften(params, extra, outputs, batch, targets, key):
        del params, batch, key
        logits = outputs["logits"], targets["teacher"]["logits"]
        return jnp.mean(losses.kd(*logits, temperature=kd_temperature)), extra

    terms = {
        "instance": (instance, near),
        "relation": (relation, related),
        "distance": (distance, apart),
        "kd": (kd, soften),
    }
    needed = ("teacher",) if any(weight for weight, _ in terms.values()) else ()
    method = streams.student(
        spec, "aird", terms, needed, ce_weight=ce_weight, warmup=warmup, fade=fade
    )
    method = streams.with_maps(method, spec, spec.frozen)
    return method._replace(assess=test_time_adaptation.report(spec) if adapt else None)
