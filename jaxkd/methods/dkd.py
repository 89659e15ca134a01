"""DKD: target-class and non-target-class knowledge apart (arXiv:2203.08679)."""

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
    dkd_weight: float = 1.0,
    ce_weight: float = 1.0,
    warmup: float = 20.0,
    standardize: bool = False,
) -> Method:
    """Makes a student of ``ce_weight * CE + dkd_weight * DKD``; see ``distillation``.

    ``beta`` depends on the pair of networks (8, 6 or 2 in the CIFAR-100 recipes);
    the default is that of resnet32x4 -> resnet8x4.
    """
    return distillation.from_logits(
        spec,
        "dkd",
        functools.partial(losses.dkd, alpha=alpha, beta=beta, temperature=temperature),
        ce_weight=ce_weight,
        weight=dkd_weight,
        warmup=warmup,
        standardize=standardize,
    )
