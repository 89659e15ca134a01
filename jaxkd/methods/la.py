"""LA: the teacher's logits of the label and of its own top class trade places.

The baseline that the tables of the RLD paper (arXiv:2408.07703) call LA and its code
SWAP, after arXiv:1911.07471. The student sees no label except through the swap.
"""

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    temperature: float = 4.0,
    la_weight: float = 1.0,
    ce_weight: float = 0.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of KD towards swapped teacher logits; see ``distillation``."""

    def term(student, teacher, labels):
        swapped = losses.swap_labels(teacher, labels)
        return losses.kd(student, swapped, temperature=temperature)

    return distillation.from_logits(
        spec, "la", term, ce_weight=ce_weight, weight=la_weight, warmup=warmup
    )
