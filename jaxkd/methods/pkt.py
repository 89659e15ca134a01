"""PKT: the rows of a batch are as likely neighbours (arXiv:1803.10837)."""

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    pkt_weight: float = 30000.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + pkt_weight * PKT``; see ``distillation``.

    PKT is ``losses.pkt`` of the pooled features. The default weight is that of
    arXiv:1910.10699.
    """

    def term(student, teacher):
        return losses.pkt(student["pooled"], teacher["pooled"])

    return distillation.from_features(
        spec, "pkt", term, ce_weight=ce_weight, weight=pkt_weight, warmup=warmup
    )
