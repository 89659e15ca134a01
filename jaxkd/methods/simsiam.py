"""SimSiam: a view predicts the other, whose gradient is stopped (arXiv:2011.10566)."""

import jax.numpy as jnp

from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised


def make(
    spec: Spec,
    *,
    hidden: int = 512,
    bottleneck: int = 64,
    output: int = 128,
    predictor: bool = True,
) -> Method:
    """Makes an encoder trained without negatives and without a target network.

    Args:
      spec: the run.
      hidden: width of the projector.
      bottleneck: width of the predictor's hidden layer.
      output: width of the projections.
      predictor: whether there is one; without it, and then without the stopped
        gradient's help, features collapse: for experiments.
    """
    self_supervised.exactly_two(spec, "simsiam")
    project, predict = self_supervised.siamese_heads(hidden, bottleneck, output)

    def loss(inputs: LossInputs) -> Loss:
        outputs = inputs.outputs
        if not predictor:
            inputs = inputs._replace(outputs={**outputs, "p": outputs["z"]})
        value = jnp.mean(self_supervised.symmetric_cosine(inputs, "z"))
        return Loss(value, inputs.model_state, {"negative_cosine": value})

    return self_supervised.joint_embedding(
        spec,
        "simsiam",
        loss,
        projector=project,
        predictor=predict if predictor else None,
    )
