"""VICReg: views agree, features vary and do not covary (arXiv:2105.04906)."""

from jaxkd import losses
from jaxkd.core.types import LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised, terms
from jaxkd.models.projection import Head, Layer


def make(
    spec: Spec,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    width: int = 2048,
    depth: int = 2,
) -> Method:
    """Makes an encoder trained by the three terms of VICReg.

    Args:
      spec: the run.
      invariance_weight: of the views' squared difference.
      variance_weight: of the hinge at standard deviation 1; without it features
        collapse.
      covariance_weight: of the covariances between features.
      width: of the projector's layers.
      depth: their number; 2 as in arXiv:2405.18320, 3 in the paper.
    """
    self_supervised.exactly_two(spec, "vicreg")
    hidden = (self_supervised.hidden(width),) * (depth - 1)
    projector = Head((*hidden, Layer(width)))
    weights = {
        "invariance": invariance_weight,
        "variance": variance_weight,
        "covariance": covariance_weight,
    }

    def term(place: int):
        return lambda inputs: losses.vicreg_terms(*inputs.outputs["z"])[place]

    weighted = {
        name: terms.Term(weight, term(place))
        for place, (name, weight) in enumerate(weights.items())
    }

    def loss(inputs: LossInputs):
        return terms.add_up(inputs, weighted)

    return self_supervised.joint_embedding(spec, "vicreg", loss, projector=projector)
