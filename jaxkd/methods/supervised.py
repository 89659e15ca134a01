"""Training on labels alone: teachers, and the baseline of every study."""

import jax.numpy as jnp
import optax

from jaxkd.core.types import Aux, Method, Spec
from jaxkd.methods.common import classification


def make(spec: Spec, *, label_smoothing: float = 0.0) -> Method:
    """Makes a classifier trained with cross entropy.

    Args:
      spec: the run.
      label_smoothing: probability mass spread evenly over all classes.
    """

    def loss(params, extra, outputs, batch, targets, key, step):
        del params, targets, key, step
        labels = optax.smooth_labels(
            jnp.eye(spec.num_classes)[batch["label"]], label_smoothing
        )
        ce = jnp.mean(optax.softmax_cross_entropy(outputs["logits"], labels))
        top1 = classification.accuracy(outputs["logits"], batch)
        return ce, Aux(extra, {"ce": ce, "top1": top1})

    return classification.classifier(spec, loss, ("ce", "top1"))
