"""Writer verification: do two words come from one hand? (arXiv:2405.18320)

A siamese network (``config.model.name = "siamese"``, ``config.model.input = "pair"``)
is trained on pairs of few labelled writers; its encoder begins at random or as a
pre-trained one.
"""

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    FROZEN,
    MAIN,
    Batch,
    Loss,
    LossInputs,
    Method,
    Score,
    Spec,
)
from jaxkd.evaluators import verification
from jaxkd.losses.numerics import length
from jaxkd.methods.common import classification
from jaxkd.methods.common.warm_start import check_fit, check_named
from jaxkd.models.siamese import Siamese

PREDICTOR = "handwriting"
SCORE = Score("accuracy", "verification accuracy")
ENCODER = "encoder"  # label of the encoder's parameters where it is fine-tuned
_ADVICE = "Set config.model.encoder to that run's network, with its widths."


@flax.struct.dataclass
class Decisions(metrics.Metric):
    """Counts of decisions: ``[true kind, decided kind]``, 1 for one hand."""

    counts: jax.Array

    @classmethod
    def from_model_output(cls, *, decided, label, mask, **_) -> "Decisions":
        """Counts unmasked pairs."""
        counts = jnp.zeros((2, 2), jnp.int32)
        return cls(counts.at[label, decided].add(mask.astype(jnp.int32)))

    def merge(self, other: "Decisions") -> "Decisions":
        """Adds the counts of two sets of pairs."""
        return jax.tree.map(jnp.add, self, other)

    def compute(self) -> jax.Array:
        """Returns the counts."""
        return self.counts


@flax.struct.dataclass
class Accuracy(Decisions):
    """Share of right decisions."""

    def compute(self) -> jax.Array:
        """Returns the share."""
        return jnp.trace(self.counts) / jnp.maximum(self.counts.sum(), 1)


@flax.struct.dataclass
class F1(Decisions):
    """Harmonic mean of precision and recall of pairs of one hand."""

    def compute(self) -> jax.Array:
        """Returns F1, 0 if nothing was accepted rightly."""
        found = 2 * self.counts[1, 1]
        wrong = self.counts[0, 1] + self.counts[1, 0]
        return found / jnp.maximum(found + wrong, 1)


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """Accuracy, F1 and mean cross entropy of pairs."""

    accuracy: Accuracy
    f1: F1
    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]


def evaluate(outputs: Mapping[str, Any], batch: Batch) -> Evaluation:
    """Compares decisions with labels; padding does not count."""
    logits, label = outputs["logits"], batch["label"]
    return Evaluation.single_from_model_output(
        decided=(logits[:, 1] > logits[:, 0]).astype(jnp.int32),
        label=label,
        mask=batch["mask"],
        loss=losses.cross_entropy(logits, label),
    )


def make(
    spec: Spec,
    *,
    encoder: str = "scratch",
    start_from: str = "",
    loss: str = "cross_entropy",
    margin: float = 2.0,
) -> Method:
    """Makes a verifier of pairs.

    Args:
      spec: the run.
      encoder: ``"scratch"`` trains all; ``"frozen"`` trains the head on features of a
        pre-trained encoder; ``"finetune"`` trains both, the encoder by
        ``config.optimizers.encoder``.
      start_from: the needed run that pre-trained the encoder.
      loss: ``"cross_entropy"`` of the head, or ``"contrastive"``, of the embeddings'
        distance beside it.
      margin: of the contrastive loss.

    Raises:
      UserError: if the network is no siamese one, the encoder's beginning and
        ``encoder`` do not fit together, or scikit-image is missing.
    """
    if importlib.util.find_spec("skimage") is None:
        # Before training, not after it: the evaluation's baselines need it.
        raise UserError(
            "HOG, a baseline of 'handwriting_pairs', needs scikit-image: pip install "
            "-e '.[handwriting]'"
        )
    lookup.choose(
        encoder, dict.fromkeys(("scratch", "frozen", "finetune")), what="encoder"
    )
    contrastive = lookup.choose(
        loss, {"cross_entropy": False, "contrastive": True}, what="loss"
    )
    if not isinstance(spec.network, Siamese) or len(spec.image_shape) != 4:
        raise UserError(
            "Method 'handwriting_pairs' needs config.model.name 'siamese' and "
            f"config.model.input 'pair', got a {type(spec.network).__name__} that "
            f"reads {spec.input_key!r} of shape {spec.image_shape}."
        )
    if bool(start_from) != (encoder != "scratch"):
        raise UserError(
            f"encoder is {encoder!r} and start_from {start_from!r}: a frozen or "
            "fine-tuned encoder starts from a needed run, one from scratch from none."
        )
    network = spec.network.clone(freeze=encoder == "frozen")
    method = classification.classifier(
        spec._replace(network=network), _loss(contrastive, margin)
    )
    return method._replace(
        evaluate=evaluate,
        score=SCORE,
        evaluator=verification.evaluate,
        trainable=_trainable(encoder),
        warm_start=_encoder_of(start_from) if start_from else None,
    )


# Cached, so that students that differ in their encoder's beginning share a body.
@functools.cache
def _loss(contrastive: bool, margin: float):
    def loss(inputs: LossInputs) -> Loss:
        outputs, label = inputs.outputs, inputs.batch["label"]
        ce = classification.cross_entropy(outputs, inputs.batch)
        accuracy = classification.accuracy(outputs["logits"], inputs.batch)
        found = {"ce": ce, "accuracy": accuracy}
        if not contrastive:
            return Loss(ce, inputs.model_state, found)
        first, second = jnp.moveaxis(outputs["features"]["embedding"], 1, 0)
        distance = length(first - second)[..., 0]
        term = jnp.mean(losses.contrastive_margin(distance, label == 1, margin=margin))
        return Loss(ce + term, inputs.model_state, found | {"contrastive": term})

    return loss


@functools.cache
def _trainable(encoder: str):
    if encoder == "scratch":
        return None
    label = FROZEN if encoder == "frozen" else ENCODER

    def labels(params):
        student = {name: MAIN for name in params["student"]} | {ENCODER: label}
        return {"student": student}

    return labels


@functools.cache
def _encoder_of(name: str):
    """Returns a ``warm_start`` that takes the encoder of a needed run."""

    def start(params, model_state, frozen):
        check_named(name, frozen)
        variables = dict(frozen[name])
        new = {
            "params": {**params["student"]},
            **{k: {**v} for k, v in model_state["student"].items()},
        }
        for collection, tree in new.items():
            if ENCODER not in tree:
                continue
            theirs = variables.get(collection, {})
            check_fit(name, theirs, tree[ENCODER], "encoder", _ADVICE)
            tree[ENCODER] = theirs
        student = new.pop("params")
        return {**params, "student": student}, {**model_state, "student": new}

    return start
