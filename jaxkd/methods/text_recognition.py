"""Text recognition by cross-entropy: the teacher of KD-LTR, and its baselines."""

from jaxkd.core.types import LossInputs, Method, Spec
from jaxkd.methods.common import text, warm_start
from jaxkd.methods.common.terms import Term, add_up
from jaxkd.methods.common.untrained import untrained
from jaxkd.methods.kd_ltr import from_run

PREDICTOR = "text"


def make(
    spec: Spec, *, start_from: str = "", half: bool = False, frozen: bool = False
) -> Method:
    """Makes a reader that learns from labels.

    Args:
      spec: of the run.
      start_from: name of a needed run whose reader it begins as; empty for a new one.
      half: whether it sees half the size of that reader's images, see
        ``text_recognition.for_half_size``.
      frozen: whether it stays what it begins as: measures the needed run's reader on
        other images, such as small ones enlarged.

    Raises:
      UserError: if the data have no text, or the network other slots.
    """
    terms = {"ce": Term(1.0, text.cross_entropy)}

    def loss(inputs: LossInputs):
        return add_up(inputs, terms)

    method = text.reader(spec, loss)
    if start_from:
        start = (
            from_run(spec, start_from)
            if half
            else warm_start.from_needed_run(start_from)
        )
        method = method._replace(warm_start=start)
    if frozen:
        method = untrained(method)
    return method
