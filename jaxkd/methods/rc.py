"""RC: KD plus a correction of the student towards its own logits with the label raised.

A label-correcting baseline of the RLD paper (arXiv:2408.07703).
"""

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    temperature: float = 4.0,
    rc_weight: float = 1.0,
    correction_weight: float = 0.1,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``CE + KD + correction_weight * SC``; see ``distillation``."""

    def term(student, teacher, labels):
        kd = losses.kd(student, teacher, temperature=temperature)
        correction = losses.review_correct(student, labels, temperature=temperature)
        return kd + correction_weight * correction

    return distillation.from_logits(
        spec, "rc", term, ce_weight=ce_weight, weight=rc_weight, warmup=warmup
    )
