"""Barlow Twins: features of two views correlate one by one (arXiv:2103.03230)."""

from jaxkd import losses
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised
from jaxkd.models.projection import Head, Layer


def make(spec: Spec, *, off_diagonal_weight: float = 5e-3, width: int = 2048) -> Method:
    """Makes an encoder whose views' cross-correlation is to be the identity.

    Args:
      spec: the run.
      off_diagonal_weight: of the correlations of different features.
      width: of the three layers of the projector.
    """
    self_supervised.exactly_two(spec, "barlow_twins")
    hidden = self_supervised.hidden(width)
    projector = Head((hidden, hidden, Layer(width)))

    def loss(inputs: LossInputs) -> Loss:
        value = losses.barlow_twins(*inputs.outputs["z"], weight=off_diagonal_weight)
        return Loss(value, inputs.model_state, {"barlow_twins": value})

    return self_supervised.joint_embedding(
        spec, "barlow_twins", loss, projector=projector
    )
