"""LR: where the teacher is wrong, the label is mixed into its probabilities.

Label revision (arXiv:2404.03693), a baseline of the RLD paper (arXiv:2408.07703).
Examples on which the teacher is right are learnt from the label and its raw logits.
"""

import functools

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def make(spec: Spec, *, eta: float = 0.8, lr_weight: float = 1.0) -> Method:
    """Makes a student of label revision; the weights are those of the official code.

    The term holds its own cross entropy, on the examples that the teacher gets right.
    """
    return distillation.from_logits(
        spec,
        "lr",
        functools.partial(losses.label_revision, eta=eta),
        ce_weight=0.0,
        weight=lr_weight,
    )
