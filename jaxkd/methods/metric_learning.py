"""Metric learning: an embedding by ArcFace or triplets, and a teacher's relations.

Alone it trains teachers and baselines. With a teacher it adds, or puts in place of the
labels, what the teacher's embeddings say: their directions (order 1), their distances
and angles (RKD, arXiv:1904.05068, whose students learn by these alone).
"""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import classification, distillation, embedding
from jaxkd.methods.common.networks import frozen_outputs
from jaxkd.methods.common.terms import Term, add_up

PREDICTOR = "embeddings"
KINDS = ("arcface", "softmax", "triplet", "none")


def make(
    spec: Spec,
    *,
    labels: str = "arcface",
    margin: float | None = None,
    scale: float = 16.0,
    direction_weight: float = 0.0,
    distance_weight: float = 0.0,
    angle_weight: float = 0.0,
    kd_weight: float = 0.0,
    temperature: float = 4.0,
    sides: tuple[int, ...] = (),
) -> Method:
    """Makes a network that embeds.

    Batches are drawn at random, so triplets are found only where there are few classes
    or large batches: ``batch_size`` times the images of a class over all images should
    be well above 1.

    Args:
      spec: the run; its network must embed, such as ``embed8``.
      labels: what is learnt from them: ``"arcface"``, ``"softmax"`` (of ``scale`` times
        cosines), ``"triplet"`` or ``"none"``.
      margin: of ArcFace in radians, 0.5 if not given (0.2 to 0.3 suits small networks),
        or of triplets in distance, 0.2 if not given.
      scale: of the cosines; 64 for many thousand classes.
      direction_weight: weight of one minus the cosine with the teacher's embedding.
      distance_weight: weight of ``losses.rkd_distance`` of the embeddings. RKD takes
        1, with ``angle_weight=2`` and ``labels="none"``.
      angle_weight: weight of ``losses.rkd_angle`` of the embeddings.
      kd_weight: weight of ``losses.kd`` of the logits.
      temperature: of KD.
      sides: see ``recognition.by_side``.

    Raises:
      UserError: if an option is unknown, nothing is left to learn, or a weight asks for
        a teacher that the run does not need.
    """
    weights = {
        "direction": direction_weight,
        "distance": distance_weight,
        "angle": angle_weight,
        "kd": kd_weight,
    }
    weights = {name: weight for name, weight in weights.items() if weight}
    _check(labels, weights)
    if margin is None:
        margin = 0.2 if labels == "triplet" else 0.5
    targets = {}
    if weights:
        teacher = distillation.require(spec, "teacher", "metric_learning")
        targets["teacher"] = frozen_outputs(teacher)
    terms = (
        {} if labels == "none" else {labels: Term(1.0, _labels(labels, margin, scale))}
    )
    terms |= {
        name: Term(weight, _of_teacher(name, temperature))
        for name, weight in weights.items()
    }

    def loss(inputs: LossInputs) -> Loss:
        total = add_up(inputs, terms)
        top1 = classification.accuracy(inputs.outputs["logits"], inputs.batch)
        return total._replace(metrics={"top1": top1} | total.metrics)

    return embedding.embedder(spec, "metric_learning", loss, targets, tuple(sides))


def _labels(kind: str, margin: float, scale: float):
    """Returns the term that learns from labels."""

    def triplets(inputs: LossInputs):
        embeddings = inputs.outputs["features"]["embedding"]
        labels = inputs.batch["label"]
        return losses.distance_weighted_triplet(
            embeddings, labels, inputs.key, margin=margin
        )

    def classes(inputs: LossInputs):
        return embedding.class_loss(kind, inputs.outputs, inputs.batch, margin, scale)

    return triplets if kind == "triplet" else classes


def _of_teacher(name: str, temperature: float):
    def term(inputs: LossInputs):
        return _TERMS[name](inputs.outputs, inputs.targets["teacher"], temperature)

    return term


def _check(labels: str, weights: dict[str, float]) -> None:
    lookup.choose(labels, dict.fromkeys(KINDS), what="labels")
    if labels == "none" and not weights:
        raise UserError(
            "labels='none' leaves nothing to learn. Set the weights direction, "
            "distance, angle or kd of what the teacher says."
        )


def _rows(outputs, teacher):
    return outputs["features"]["embedding"], teacher["features"]["embedding"]


def _kd(outputs, teacher, temperature):
    logits = outputs["logits"], teacher["logits"]
    return jnp.mean(losses.kd(*logits, temperature=temperature))


_TERMS = {
    "direction": lambda s, t, _: embedding.direction_gap(*_rows(s, t)),
    "distance": lambda s, t, _: losses.rkd_distance(*_rows(s, t)),
    "angle": lambda s, t, _: losses.rkd_angle(*_rows(s, t)),
    "kd": _kd,
}
