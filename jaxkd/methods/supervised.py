"""Training on labels alone: teachers, and the baseline of every study."""

import jax.numpy as jnp
import optax

from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import classification


def make(spec: Spec, *, label_smoothing: float = 0.0) -> Method:
    """Makes a classifier trained with cross entropy.

    Args:
      spec: the run.
      label_smoothing: probability mass spread evenly over all classes.
    """

    def loss(inputs: LossInputs):
        labels = optax.smooth_labels(
            jnp.eye(spec.num_classes)[inputs.batch["label"]], label_smoothing
        )
        ce = jnp.mean(optax.softmax_cross_entropy(inputs.outputs["logits"], labels))
        top1 = classification.accuracy(inputs.outputs["logits"], inputs.batch)
        return Loss(ce, inputs.model_state, {"ce": ce, "top1": top1})

    return classification.classifier(spec, loss)
