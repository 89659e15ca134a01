"""Training on labels alone: teachers, and the baseline of every study."""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import classification


def make(spec: Spec, *, label_smoothing: float = 0.0) -> Method:
    """Makes a classifier trained with cross entropy.

    Args:
      spec: the run.
      label_smoothing: probability mass spread evenly over all classes.
    """

    def loss(inputs: LossInputs):
        logits, labels = inputs.outputs["logits"], inputs.batch["label"]
        ce = jnp.mean(
            losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        )
        top1 = classification.accuracy(logits, inputs.batch)
        return Loss(ce, inputs.model_state, {"ce": ce, "top1": top1})

    return classification.classifier(spec, loss)
