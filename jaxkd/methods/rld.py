"""RLD: distillation with refined logits (arXiv:2408.07703, ICCV 2025).

A wrong teacher should not be copied, yet its knowledge of how classes resemble each
other should not be thrown away. Sample confidence distils only how sure the teacher
is, onto the student's probability of the *label*; masked correlation distils the
remaining classes after leaving out the label and all that the teacher ranks above it.
"""

import functools

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    alpha_temperature: float | None = None,
    mask: str = "ge",
    rld_weight: float = 1.0,
    ce_weight: float = 1.0,
    warmup: float = 20.0,
    standardize: bool = False,
) -> Method:
    """Makes a student of ``ce_weight * CE + rld_weight * RLD``; see ``distillation``.

    Args:
      spec: the run.
      alpha: weight of sample confidence.
      beta: weight of masked correlation; DKD's value for the pair is a good start.
      temperature: of masked correlation.
      alpha_temperature: of sample confidence. None takes ``temperature``, as the
        paper does; the official code's default is 1.
      mask: which classes masked correlation leaves out: "ge" (the paper's), "g" or
        "gt_only" (DKD's); see ``losses.masked_correlation``.
      rld_weight: of both terms together.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the distillation's weight rises.
      standardize: whether logits are standardised first (arXiv:2403.01427).
    """
    return distillation.from_logits(
        spec,
        "rld",
        functools.partial(
            losses.rld,
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            alpha_temperature=alpha_temperature,
            mask=mask,
        ),
        ce_weight=ce_weight,
        weight=rld_weight,
        warmup=warmup,
        standardize=standardize,
    )
