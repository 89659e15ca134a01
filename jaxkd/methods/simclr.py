"""SimCLR: each view finds its other view among all of the batch (arXiv:2002.05709)."""

from jaxkd import losses
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised
from jaxkd.models.projection import Head, Layer


def make(
    spec: Spec, *, temperature: float = 0.5, hidden: int = 512, output: int = 128
) -> Method:
    """Makes an encoder trained by NT-Xent; the projector has batch norm twice.

    Args:
      spec: the run.
      temperature: of the softmax.
      hidden: width of the projector.
      output: width of the projections.
    """
    self_supervised.exactly_two(spec, "simclr")
    projector = Head((self_supervised.hidden(hidden), Layer(output, "batch")))

    def loss(inputs: LossInputs) -> Loss:
        value = losses.nt_xent(*inputs.outputs["z"], temperature=temperature)
        return Loss(value, inputs.model_state, {"nt_xent": value})

    return self_supervised.joint_embedding(spec, "simclr", loss, projector=projector)
