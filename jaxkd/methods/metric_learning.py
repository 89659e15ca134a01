"""Metric learning: an embedding by ArcFace or triplets, and a teacher's relations.

Alone it trains teachers and baselines. With a teacher it adds, or puts in place of the
labels, what the teacher's embeddings say: their directions (order 1), their distances
and angles (RKD, arXiv:1904.05068, whose students learn by these alone).
"""

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import Aux, Method, Spec
from jaxkd.methods.common import classification, distillation, embedding

PREDICTOR = "embeddings"
KINDS = ("arcface", "softmax", "triplet", "none")


def make(
    spec: Spec,
    *,
    labels: str = "arcface",
    margin: float | None = None,
    scale: float = 16.0,
    direction: float = 0.0,
    distance: float = 0.0,
    angle: float = 0.0,
    kd: float = 0.0,
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
      direction: weight of one minus the cosine with the teacher's embedding.
      distance: weight of ``losses.rkd_distance`` of the embeddings. RKD takes 1, with
        ``angle=2`` and ``labels="none"``.
      angle: weight of ``losses.rkd_angle`` of the embeddings.
      kd: weight of ``losses.kd`` of the logits.
      temperature: of ``kd``.
      sides: see ``recognition.by_side``.

    Raises:
      UserError: if an option is unknown, nothing is left to learn, or a weight asks for
        a teacher that the run does not need.
    """
    weights = {"direction": direction, "distance": distance, "angle": angle, "kd": kd}
    weights = {name: weight for name, weight in weights.items() if weight}
    _check(labels, weights)
    if margin is None:
        margin = 0.2 if labels == "triplet" else 0.5
    targets = {}
    if weights:
        teacher = distillation.require(spec, "teacher", "metric_learning")
        targets["teacher"] = classification.frozen_outputs(teacher)
    names = (*(() if labels == "none" else (labels,)), "top1", *weights)

    def loss(params, extra, outputs, batch, targets, key, step):
        del params, step
        measured = {"top1": classification.accuracy(outputs["logits"], batch)}
        if labels == "triplet":
            measured[labels] = losses.distance_weighted_triplet(
                outputs["features"]["embedding"], batch["label"], key, margin=margin
            )
        elif labels != "none":
            measured[labels] = embedding.class_loss(
                labels, outputs, batch, margin, scale
            )
        total = measured.get(labels, jnp.zeros(()))
        for name, weight in weights.items():
            term = _TERMS[name](outputs, targets["teacher"], temperature)
            measured[name] = term
            total += weight * term
        return total, Aux(extra, measured)

    return embedding.embedder(
        *(spec, "metric_learning", loss, names, targets, tuple(sides))
    )


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
