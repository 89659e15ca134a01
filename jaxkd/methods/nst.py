"""NST: channels of student and teacher fire at like places (arXiv:1707.01219)."""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    nst_weight: float = 50.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + nst_weight * NST``; see ``distillation``.

    NST is the sum of ``losses.neuron_selectivity`` over the stages of both networks,
    paired from the deepest on. The default weight is that of arXiv:1910.10699.
    """

    def term(student, teacher):
        pairs = distillation.paired_stages(student, teacher)
        terms = [losses.neuron_selectivity(*pair) for pair in pairs]
        return jnp.sum(jnp.stack(terms), axis=0)

    return distillation.from_features(
        spec, "nst", term, ce_weight=ce_weight, weight=nst_weight, warmup=warmup
    )
