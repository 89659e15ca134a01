"""AT: the student attends to where the teacher does (arXiv:1612.03928)."""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    at_weight: float = 1000.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + at_weight * AT``; see ``distillation``.

    AT is the sum of ``losses.attention_transfer`` over the stages of both networks,
    paired from the deepest on. The default weight is that of arXiv:1910.10699.
    """

    def term(student, teacher):
        pairs = distillation.paired_stages(student, teacher)
        terms = [losses.attention_transfer(*pair) for pair in pairs]
        return jnp.sum(jnp.stack(terms), axis=0)

    return distillation.from_features(
        spec, "at", term, ce_weight=ce_weight, weight=at_weight, warmup=warmup
    )
