"""SP: the rows of a batch resemble each other alike (arXiv:1907.09682)."""

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    sp_weight: float = 3000.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + sp_weight * SP``; see ``distillation``.

    SP is ``losses.similarity_preserving`` of the deepest stages. The default weight is
    that of arXiv:1910.10699.
    """

    def term(student, teacher):
        deepest = distillation.paired_stages(student, teacher)[-1]
        return losses.similarity_preserving(*deepest)

    return distillation.from_features(
        spec, "sp", term, ce_weight=ce_weight, weight=sp_weight, warmup=warmup
    )
