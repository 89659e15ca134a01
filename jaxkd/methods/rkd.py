"""RKD: the rows of a batch keep distances and angles (arXiv:1904.05068)."""

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    rkd_weight: float = 1.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + rkd_weight * RKD``; see ``distillation``.

    Args:
      spec: the run.
      distance_weight: of ``losses.rkd_distance`` of the pooled features.
      angle_weight: of ``losses.rkd_angle`` of the same.
      rkd_weight: of both together.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the distillation's weight rises.
    """

    def term(student, teacher):
        rows = student["pooled"], teacher["pooled"]
        distance = distance_weight * losses.rkd_distance(*rows)
        return distance + angle_weight * losses.rkd_angle(*rows)

    return distillation.from_features(
        spec, "rkd", term, ce_weight=ce_weight, weight=rkd_weight, warmup=warmup
    )
