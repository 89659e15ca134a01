"""Recognition of speech units in every frame: the teachers of ``cmdfd``.

Cross entropy of each frame with the unit that is said there (``units``), or CTC where
only the order of the units is known: runs of equal units count as one.
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Loss, LossInputs, Method, Score, Spec
from jaxkd.methods.common import classification

LOSSES = ("frames", "ctc")
ACCURACY = Score("top1", "accuracy of frames")


@flax.struct.dataclass
class _Evaluation(metrics.Collection):
    """Mean accuracy of the frames of a clip."""

    top1: metrics.Average.from_output("top1")  # type: ignore[valid-type]


def make(spec: Spec, *, objective: str = "frames") -> Method:
    """Makes a recogniser.

    Args:
      spec: the run; its batches hold ``units`` ``[batch, time]``, -1 where nothing is
        known, and ``present`` ``[batch, time]``.
      objective: "frames" or "ctc". For CTC the network has one class more: 0 is the
        blank, and unit ``u`` has class ``u + 1``.

    Raises:
      UserError: if the objective is unknown or the data have no units.
    """
    if objective not in LOSSES:
        raise UserError(
            f"objective is {objective!r}, expected one of {', '.join(LOSSES)}."
        )
    if "units" not in spec.fields or "present" not in spec.fields:
        raise UserError(
            f"frame_recognition wants the fields units and present, but the data have "
            f"{', '.join(spec.fields)}. Take a data set whose frames are labelled, "
            "such as talking_heads."
        )
    shift = int(objective == "ctc")

    def loss(inputs: LossInputs) -> Loss:
        logits, batch = inputs.outputs["logits"], inputs.batch
        right, known = _right(logits, batch, shift)
        top1 = jnp.sum(right) / jnp.maximum(jnp.sum(known), 1)
        if objective == "ctc":
            labels, padding = collapse(batch["units"], known)
            missing = 1.0 - batch["present"].astype(jnp.float32)
            value = optax.ctc_loss(logits, missing, labels, padding)
            largest = jnp.max(labels, axis=1)
            value = jnp.mean(losses.reject_labels(value, largest, logits.shape[-1]))
        else:
            value = _cross_entropy(logits, batch["units"], known)
        return Loss(value, inputs.model_state, {objective: value, "top1": top1})

    def evaluate(outputs, batch: Batch):
        right, known = _right(outputs["logits"], batch, shift)
        count = jnp.maximum(jnp.sum(known, axis=1), 1)
        return _Evaluation.single_from_model_output(
            mask=batch["mask"], top1=jnp.sum(right, axis=1) / count
        )

    functions = classification.network_functions(
        spec.network, spec.image_shape, spec.input_key
    )
    return Method(
        targets={}, loss=loss, evaluate=evaluate, score=ACCURACY, **functions._asdict()
    )


def collapse(units: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reduces runs of equal units to one, as CTC labels.

    Args:
      units: ``[batch, time]``.
      known: ``[batch, time]``, frames whose unit counts.

    Returns:
      Labels ``[batch, time]``, unit + 1 and 0 beyond the last; and padding, 1 there.
    """
    before = jnp.pad(units, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    was_known = jnp.pad(known, ((0, 0), (1, 0)))[:, :-1]
    starts = known & ((units != before) | ~was_known)
    # Stable: those that begin a run first, in their order.
    order = jnp.argsort(~starts, axis=1, stable=True)
    kept = jnp.take_along_axis(starts, order, axis=1)
    labels = jnp.take_along_axis(units, order, axis=1)
    return jnp.where(kept, labels + 1, 0), 1.0 - kept.astype(jnp.float32)


def _right(logits: jax.Array, batch: Batch, shift: int) -> tuple[jax.Array, jax.Array]:
    """Returns the frames that are recognised, and those whose unit is known.

    Of a network with a blank, the best of the other classes counts.
    """
    known = batch["present"] & (batch["units"] >= 0)
    guess = jnp.argmax(logits[..., shift:], axis=-1)
    return known & (guess == batch["units"]), known


def _cross_entropy(logits: jax.Array, units: jax.Array, known: jax.Array) -> jax.Array:
    each = losses.cross_entropy(logits, units, where=known)
    return jnp.sum(each) / jnp.maximum(jnp.sum(known), 1)
