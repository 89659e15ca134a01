"""MLKD on one view: logits matched by example, batch and class (CVPR 2023).

Jin et al., "Multi-Level Logit Distillation", without its strong view; see ``mlkd``.
"""

from collections.abc import Sequence

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.types import Method, Spec
from jaxkd.losses.multilevel import MASKED, TEMPERATURES
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    masked: str = "per_sample",
    temperatures: Sequence[float] = TEMPERATURES,
    mlkd_noaug_weight: float = 0.9,
    ce_weight: float = 0.1,
    warmup: float = 0.0,
    standardize: bool = False,
) -> Method:
    """Makes a student of ``ce_weight * CE + mlkd_noaug_weight * MLKD``; see
    ``distillation``.

    Args:
      spec: the run.
      masked: "per_sample" leaves out the rows and classes of which the teacher is more
        confident, as the paper describes; "official" scales with their share, as the
        code of the published numbers does. See ``losses.mlkd_noaug``.
      temperatures: over which the term is summed.
      mlkd_noaug_weight: of the term.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the term's weight rises.
      standardize: whether logits are standardised first (arXiv:2403.01427).

    Raises:
      UserError: if the run needs no teacher, or ``masked`` is unknown.
    """
    lookup.choose(masked, dict.fromkeys(MASKED), what="masked")

    def term(student, teacher, labels):
        del labels
        return losses.mlkd_noaug(
            student, teacher, masked=masked, temperatures=temperatures
        )

    return distillation.from_logits(
        spec,
        "mlkd_noaug",
        term,
        ce_weight=ce_weight,
        weight=mlkd_noaug_weight,
        warmup=warmup,
        standardize=standardize,
    )
