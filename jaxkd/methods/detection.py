"""Detection by FCOS on images of one size: the baseline of MSAD."""

from jaxkd.core.types import LossInputs, Method, Spec
from jaxkd.methods.common import detection
from jaxkd.methods.common.terms import Term, add_up
from jaxkd.methods.msad import from_teacher

PREDICTOR = "detection"


def make(spec: Spec, *, start_from: str = "", official: bool = False) -> Method:
    """Makes a detector that learns from boxes.

    Args:
      spec: of the run; a network that reads half the size of the image sees its pyramid
        one level lower.
      start_from: name of a needed run whose backbone and head it begins with.
      official: see ``common.detection.head_losses``.

    Raises:
      UserError: if the data have no boxes, or sizes do not fit.
    """
    where = detection.layout(spec)

    def loss(inputs: LossInputs):
        found = detection.head_losses(
            inputs.outputs["head"], inputs.batch, where, official=official
        )
        terms = {
            name: Term(1.0, detection.known(value)) for name, value in found.items()
        }
        return add_up(inputs, terms)

    method = detection.detector(spec, loss)
    if start_from:
        method = method._replace(warm_start=from_teacher(start_from))
    return method
