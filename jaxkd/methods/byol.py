"""BYOL: a network predicts the projections of its moving average (arXiv:2006.07733)."""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised
from jaxkd.models.projection import Head, Layer


def make(
    spec: Spec,
    *,
    momentum: float = 0.996,
    hidden: int = 1024,
    output: int = 256,
    predictor: bool = True,
) -> Method:
    """Makes an encoder that learns from a slowly moving copy of itself.

    Args:
      spec: the run.
      momentum: of the copy at the beginning; it rises to 1 along a cosine over all
        steps. The code of arXiv:2405.18320 raises it once an epoch.
      hidden: width of projector and predictor.
      output: width of the projections.
      predictor: whether there is one; without it features collapse: for experiments.
    """
    self_supervised.exactly_two(spec, "byol")
    projector = Head((self_supervised.hidden(hidden), Layer(output)))

    def loss(inputs: LossInputs) -> Loss:
        outputs = inputs.outputs
        if not predictor:
            inputs = inputs._replace(outputs={**outputs, "p": outputs["z"]})
        value = jnp.mean(self_supervised.symmetric_cosine(inputs, "target"))
        return Loss(value, inputs.model_state, {"negative_cosine": value})

    return self_supervised.joint_embedding(
        spec,
        "byol",
        loss,
        projector=projector,
        predictor=projector.clone() if predictor else None,
        momentum=lambda step: losses.cosine_momentum(step, spec.steps, momentum),
    )
