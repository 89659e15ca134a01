"""KD: the student matches the teacher's softened probabilities (arXiv:1503.02531)."""

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    ce_weight: float = 0.1,
    warmup: float = 0.0,
    standardize: bool = False,
) -> Method:
    """Makes a student of ``ce_weight * CE + kd_weight * KD``; see ``distillation``.

    The defaults are the CIFAR-100 recipe of mdistiller; on ImageNet it takes
    temperature 1 and weights 0.5 and 0.5.
    """

    def term(student, teacher, labels):
        del labels
        return losses.kd(student, teacher, temperature=temperature)

    return distillation.from_logits(
        spec,
        "kd",
        term,
        ce_weight=ce_weight,
        weight=kd_weight,
        warmup=warmup,
        standardize=standardize,
    )
