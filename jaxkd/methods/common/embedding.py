"""Recognition as a ``Method``: embeddings, and how well they tell people apart.

While training, all pairs within a batch of test images are compared; after it,
``jaxkd.evaluators.recognition`` verifies the data set's own pairs.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Loss, LossInputs, Method, Score, Spec
from jaxkd.evaluators import recognition
from jaxkd.losses.numerics import einsum, unit
from jaxkd.methods.common import classification

BINS = 512  # of cosines from -1 to 1
SCORE = Score("pairs", "pair accuracy")


@flax.struct.dataclass
class PairAccuracy(metrics.Metric):
    """Counts of cosines within batches, ``[2, BINS]``: two labels, one label."""

    counts: jax.Array

    @classmethod
    def from_model_output(cls, *, embedding, labels, mask, **_) -> "PairAccuracy":
        """Counts each pair of two unmasked examples of a batch once."""
        rows = unit(embedding.astype(jnp.float32))
        cosine = einsum("id,jd->ij", rows, rows)
        place = jnp.clip(((cosine + 1) / 2 * BINS).astype(jnp.int32), 0, BINS - 1)
        same = (labels[:, None] == labels[None, :]).astype(jnp.int32)
        counted = jnp.triu(mask[:, None] & mask[None, :], k=1).astype(jnp.int32)
        return cls(jnp.zeros((2, BINS), jnp.int32).at[same, place].add(counted))

    def merge(self, other: "PairAccuracy") -> "PairAccuracy":
        """Adds the counts of two sets of batches."""
        return PairAccuracy(self.counts + other.counts)

    def compute(self) -> jax.Array:
        """Returns the mean of both kinds' accuracies at the best threshold."""
        counts = self.counts.astype(jnp.float32)
        share = jnp.cumsum(counts, axis=1) / jnp.maximum(counts.sum(1), 1)[:, None]
        below = jnp.concatenate([jnp.zeros((2, 1)), share], axis=1)
        return jnp.max(below[0] + 1 - below[1]) / 2


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """Accuracy on the pairs within batches, and top-1 among the classes."""

    pairs: PairAccuracy
    top1: metrics.Average.from_output("top1")  # type: ignore[valid-type]


def evaluate(outputs: dict[str, Any], batch: Batch) -> Evaluation:
    """Compares embeddings within a batch, and logits with labels."""
    logits, labels = outputs["logits"], batch["label"]
    return Evaluation.single_from_model_output(
        embedding=outputs["features"]["embedding"],
        labels=labels,
        mask=batch["mask"],
        top1=jnp.argmax(logits, axis=-1) == labels,
    )


def embedder(
    spec: Spec,
    name: str,
    loss: Callable[[LossInputs], Loss],
    targets: dict[str, Callable] | None = None,
    sides: tuple[int, ...] = (),
) -> Method:
    """Makes the method of a network that embeds.

    Args:
      spec: the run.
      name: of the method, for messages.
      loss: as in ``Method``.
      targets: as in ``Method``.
      sides: to which one image of each test pair is also reduced; see
        ``evaluators.recognition.by_side``.

    Raises:
      UserError: if the network has no embedding, or a side is out of its range.
    """
    features = _features_of(spec)
    if "embedding" not in features:
        raise UserError(
            f"Method {name!r} needs a network with an embedding, but config.model.name "
            f"has only {', '.join(features)}. Take one such as 'embed8'."
        )
    method = classification.classifier(spec, loss, targets)
    return method._replace(
        evaluate=evaluate,
        score=SCORE,
        evaluator=recognition.by_side(spec, sides) or recognition.evaluate,
    )


def class_loss(
    kind: str, outputs: dict[str, Any], batch: Batch, margin: float, scale: float
) -> jax.Array:
    """Computes the batch mean of ArcFace or of a scaled softmax."""
    cosines = outputs["features"]["cosines"]
    margin = margin if kind == "arcface" else 0.0
    return jnp.mean(losses.arcface(cosines, batch["label"], margin=margin, scale=scale))


def direction_gap(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the batch mean of one minus the cosine of two embeddings.

    Raises:
      UserError: if their widths differ.
    """
    if student.shape != teacher.shape:
        raise UserError(
            f"The student's embedding has {student.shape[-1]} numbers and the "
            f"teacher's {teacher.shape[-1]}, expected as many: set config.model.width."
        )
    rows = unit(student.astype(jnp.float32)), unit(teacher.astype(jnp.float32))
    return jnp.mean(1 - jnp.sum(rows[0] * rows[1], axis=-1))


def _features_of(spec: Spec) -> dict[str, Any]:
    def forward(key, images):
        return spec.network.init_with_output(key, images)[0][1]

    images = spec.batch_shapes(2)[spec.input_key]
    return jax.eval_shape(forward, jax.random.key(0), images)
