"""IPN: a student of blurred faces keeps the teacher's identity, map by map.

Lu and Ebrahimi, "Cross-resolution Face Recognition via Identity-Preserving Network and
Knowledge Distillation" (arXiv:2303.08665). The teacher sees the image, the student a
randomly degraded copy enlarged to the same size (view ``mixed_low``), so that their
maps can be compared. The paper's network and weights are known in outline only.
"""

import math
from typing import Annotated

import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Range
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import classification, distillation, embedding
from jaxkd.methods.common.networks import frozen_outputs
from jaxkd.methods.common.terms import Term, add_up

PREDICTOR = "embeddings"


def make(
    spec: Spec,
    *,
    labels: str = "arcface",
    margin: Annotated[float, Range(0, math.pi, below=True)] = 0.5,
    scale: float = 16.0,
    direction_weight: float = 1.0,
    wavelet_weight: float = 0.5,
    sides: tuple[int, ...] = (),
) -> Method:
    """Makes a student of ArcFace, of the teacher's embedding and of its maps.

    ``ArcFace + direction_weight * (1 - cos(embeddings)) + wavelet_weight * W``, where
    ``W`` is the mean over stages and examples of ``losses.wavelet_similarity``.

    Args:
      spec: the run; it must need a teacher, and both networks embed, with stages of
        equal shape, such as ``embed8_wavelets``.
      labels: ``"arcface"`` or ``"softmax"`` (of ``scale`` times cosines).
      margin: of ArcFace, in radians.
      scale: of the cosines.
      direction_weight: weight of the embeddings' term.
      wavelet_weight: weight of the maps' term.
      sides: see ``recognition.by_side``.

    Raises:
      UserError: if the run needs no teacher, or the networks' maps differ in shape.
    """
    lookup.choose(labels, dict.fromkeys(("arcface", "softmax")), what="labels")
    teacher = distillation.require(spec, "teacher", "ipn")

    def classes(inputs: LossInputs):
        return embedding.class_loss(labels, inputs.outputs, inputs.batch, margin, scale)

    def direct(inputs: LossInputs):
        own = inputs.outputs["features"]["embedding"]
        theirs = inputs.targets["teacher"]["features"]["embedding"]
        return embedding.direction_gap(own, theirs)

    def waves(inputs: LossInputs):
        teacher = inputs.targets["teacher"]["features"]
        return _maps_gap(inputs.outputs["features"], teacher)

    terms = {
        labels: Term(1.0, classes),
        "direction": Term(direction_weight, direct),
        "wavelet": Term(wavelet_weight, waves),
    }

    def loss(inputs: LossInputs) -> Loss:
        total = add_up(inputs, terms)
        top1 = classification.accuracy(inputs.outputs["logits"], inputs.batch)
        return total._replace(metrics={"top1": top1} | total.metrics)

    targets = {"teacher": frozen_outputs(teacher)}
    return embedding.embedder(spec, "ipn", loss, targets, tuple(sides))


def _maps_gap(student, teacher):
    pairs = distillation.paired_stages(student, teacher)
    for own, other in pairs:
        if own.shape != other.shape:
            raise UserError(
                f"IPN compares maps of the shapes {own.shape[1:]} (student) and "
                f"{other.shape[1:]} (teacher), expected equal ones at every stage: "
                "give both networks the same widths and strides, and the student "
                "images enlarged to the teacher's size (view 'mixed_low')."
            )
    return jnp.mean(jnp.stack([losses.wavelet_similarity(*pair) for pair in pairs]))
