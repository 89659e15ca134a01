"""Recognition as a ``Method``: embeddings, and how well they tell people apart.

While training, all pairs within a batch of test images are compared; after it,
``jaxkd.evaluators.recognition`` verifies the data set's own pairs.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Loss, LossInputs, Method, Score, Spec
from jaxkd.evaluators import recognition, resolution
from jaxkd.losses.numerics import einsum, unit
from jaxkd.methods.common import classification

# Features that relations are between: those of any network, or what one that embeds is
# verified by.
Layer = Literal["pooled", "embedding"]
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
    _check_embeds(spec, name)
    method = classification.classifier(spec, loss, targets)
    return _verified(method)._replace(
        evaluator=recognition.by_side(spec, sides) or recognition.evaluate
    )


def _verified(method: Method) -> Method:
    return method._replace(
        evaluate=evaluate, score=SCORE, evaluator=recognition.evaluate
    )


def _check_embeds(spec: Spec, name: str) -> None:
    features = _features_of(spec.network, spec, spec.input_key)
    if "embedding" not in features:
        raise UserError(
            f"Method {name!r} needs a network with an embedding, but config.model.name "
            f"has only {', '.join(features)}. Take one such as 'embed8'."
        )


def check_layer(
    spec: Spec, name: str, layer: Layer, eval_sizes: tuple[int, ...]
) -> None:
    """Checks that relations can be between features of a layer.

    Args:
      spec: the run.
      name: of the method, for messages.
      layer: ``"embedding"`` wants networks that embed.
      eval_sizes: of ``resolution.by_size``, which measures classifiers alone.

    Raises:
      UserError: if a network has no embedding, or sides are given for embeddings.
    """
    if layer != "embedding":
        return
    _check_embeds(spec, name)
    for needed, one in spec.frozen.items():
        features = _features_of(one.network, spec, one.input_key)
        if "embedding" not in features:
            raise UserError(
                f"Method {name!r} relates embeddings (layer='embedding'), but the "
                f"network of config.needs.{needed} has only {', '.join(features)}. "
                "Take one such as 'embed8' there, or layer='pooled'."
            )
    if eval_sizes:
        raise UserError(
            f"Method {name!r} got eval_sizes={tuple(eval_sizes)} with "
            "layer='embedding', whose students are verified, not classified. Leave "
            "eval_sizes out."
        )


def measured(
    method: Method, spec: Spec, layer: Layer, eval_sizes: tuple[int, ...]
) -> Method:
    """Chooses what is measured of a method that relates features of a layer.

    Of embeddings, pairs of test images are verified (``evaluators.recognition``), so
    that people may be tested who are not in training; otherwise it is the accuracy, and
    that by resolution. Arguments are those of ``check_layer``.
    """
    if layer == "embedding":
        return _verified(method)
    return method._replace(evaluator=resolution.by_size(spec, tuple(eval_sizes)))


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


def _features_of(network: nn.Module, spec: Spec, input_key: str) -> dict[str, Any]:
    def forward(key, images):
        return network.init_with_output(key, images)[0][1]

    images = spec.batch_shapes(2)[input_key]
    return jax.eval_shape(forward, jax.random.key(0), images)
