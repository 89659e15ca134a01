"""KDSVD: singular vectors change alike from stage to stage (arXiv:1807.06819)."""

import jax

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    rank: int = 1,
    kdsvd_weight: float = 1.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + kdsvd_weight * KDSVD``; see
    ``distillation``.

    KDSVD is ``losses.kdsvd`` of the stages of both networks, paired from the deepest
    on; of maps that differ in size the larger is pooled to the smaller first.

    Args:
      spec: the run.
      rank: singular vectors of the teacher that are kept of each map.
      kdsvd_weight: of the distillation.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the distillation's weight rises.
    """

    def term(student, teacher):
        pairs = distillation.paired_stages(student, teacher)
        students, teachers = zip(*[_common_size(*pair) for pair in pairs], strict=True)
        return losses.kdsvd(students, teachers, rank=rank)

    return distillation.from_features(
        spec, "kdsvd", term, ce_weight=ce_weight, weight=kdsvd_weight, warmup=warmup
    )


def _common_size(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pools both maps to the smaller height and the smaller width."""
    height, width = map(min, student.shape[1:3], teacher.shape[1:3])
    size = height, width
    return (
        losses.adaptive_average_pool(student, size),
        losses.adaptive_average_pool(teacher, size),
    )
