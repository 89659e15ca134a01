"""Text recognition by cross-entropy: the teacher of KD-LTR, and its baselines."""

from jaxkd.core.types import FROZEN, LossInputs, Method, Spec
from jaxkd.methods.common import text, warm_start
from jaxkd.methods.common.terms import Term, add_up
from jaxkd.methods.kd_ltr import from_teacher

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
        begin = from_teacher if half else warm_start.from_needed_run
        method = method._replace(warm_start=begin(start_from))
    if frozen:
        method = method._replace(
            trainable=lambda params: dict.fromkeys(params, FROZEN),
            forward=_without_training(method),
        )
    return method


def _without_training(method: Method):
    def forward(params, model_state, batch, key):
        del key
        return method.predict(params, model_state, batch), model_state

    return forward
