"""FastSiam: SimSiam whose target is the mean of several views (GCPR 2022)."""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised


def make(
    spec: Spec, *, hidden: int = 512, bottleneck: int = 64, output: int = 128
) -> Method:
    """Makes an encoder each of whose views predicts the mean of the others; 4 views.

    Args:
      spec: the run.
      hidden: width of the projector.
      bottleneck: width of the predictor's hidden layer.
      output: width of the projections.
    """
    project, predict = self_supervised.siamese_heads(hidden, bottleneck, output)

    def loss(inputs: LossInputs) -> Loss:
        value = jnp.mean(losses.fast_siam(inputs.outputs["p"], inputs.outputs["z"]))
        return Loss(value, inputs.model_state, {"fast_siam": value})

    return self_supervised.joint_embedding(
        spec, "fastsiam", loss, projector=project, predictor=predict, views=3
    )
