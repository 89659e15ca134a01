"""CRD: the student tells images apart as the teacher does (arXiv:1910.10699).

Both networks' pooled features are embedded in one space. A student's embedding is to
agree with the teacher's of the same image, and with none of images of other classes,
and the other way round; embeddings of other images are read from memories.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Method, Spec
from jaxkd.losses.numerics import unit
from jaxkd.methods.common import distillation
from jaxkd.models import layers


def make(
    spec: Spec,
    *,
    negatives: int = 16384,
    features: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
    crd_weight: float = 0.8,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + crd_weight * CRD``; see ``distillation``.

    A step reads ``batch * negatives * features`` numbers for each of the two sides.

    Args:
      spec: the run; its training examples must be in memory.
      negatives: images of other classes that each image is told apart from, at most
        the number of all other images. They are drawn without replacement; where there
        are not that many of other classes, each is drawn about equally often.
      features: of an embedding.
      temperature: that products of embeddings are divided by.
      momentum: of the memories, in [0, 1).
      crd_weight: of both sides together.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the distillation's weight rises.

    Raises:
      UserError: if the training examples are not in memory, or an option is out of
        range.
    """
    _check(spec, negatives, features, temperature, momentum)
    return distillation.with_adapter(
        spec,
        "crd",
        Contrast(negatives, features, temperature, momentum),
        ce_weight=ce_weight,
        weight=crd_weight,
        warmup=warmup,
    )


class Contrast(nn.Module):
    """Embeds both networks' features and remembers the embeddings.

    The collection ``memory`` holds the embeddings of all training images, ``student``
    and ``teacher``, ``[num_examples, features]``; the constants of both sides,
    ``normalizers`` ``[2]``, which the first batch sets; and whether it has,
    ``started``. Attributes are arguments of ``make``.
    """

    negatives: int
    features: int
    temperature: float
    momentum: float

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Returns both sides' losses of each example, added up: ``[batch]``.

        Raises:
          UserError: if the batch does not say which training examples it holds.
        """
        index, labels = _examples(batch)
        embedded = (
            self._embed("student", outputs["features"]["pooled"]),
            self._embed("teacher", targets["teacher"]["features"]["pooled"]),
        )
        memory = [self._memory(side, len(labels)) for side in ("student", "teacher")]
        normalizers = self.variable("memory", "normalizers", jnp.ones, (2,))
        started = self.variable("memory", "started", jnp.zeros, (), bool)
        if self.is_initializing():
            return jnp.zeros(len(index))

        count = min(self.negatives, len(labels) - 1)
        others = draw_negatives(self.make_rng("sample"), index, labels, count)
        rows = jnp.concatenate([index[:, None], others], axis=1)
        sides = [
            self._side(v, m.value[rows], z, started.value, len(labels))
            for v, m, z in zip(embedded, memory[::-1], normalizers.value, strict=True)
        ]
        normalizers.value = jnp.stack([z for _, z in sides])
        started.value = jnp.ones((), bool)
        for own, v in zip(memory, embedded, strict=True):
            own.value = losses.crd_update(own.value, v, index, momentum=self.momentum)
        return sides[0][0] + sides[1][0]

    def _embed(self, side: str, pooled: jax.Array) -> jax.Array:
        return unit(layers.Linear(self.features, name=f"embed_{side}")(pooled))

    def _memory(self, side: str, examples: int) -> nn.Variable:
        def init():
            bound = math.sqrt(3 / self.features)
            shape = (examples, self.features)
            key = self.make_rng("sample")
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        return self.variable("memory", side, init)

    def _side(self, embeddings, entries, normalizer, started, num_examples: int):
        """Returns one side's loss ``[batch]`` and its constant."""
        first = losses.crd_normalizer(
            embeddings,
            entries,
            num_examples=num_examples,
            temperature=self.temperature,
        )
        normalizer = jnp.where(started, normalizer, first)
        value = losses.crd(
            embeddings,
            entries,
            normalizer=normalizer,
            num_examples=num_examples,
            temperature=self.temperature,
        )
        return value, normalizer


def draw_negatives(
    key: jax.Array, index: jax.Array, labels: jax.Array, count: int
) -> jax.Array:
    """Draws training examples of other classes for each of a batch.

    Args:
      key: of the draw.
      index: of the batch in the training set, ``[batch]``.
      labels: of the training set, ``[examples]``, of two classes or more.
      count: how many to draw for each, at most ``examples``.

    Returns:
      ``[batch, count]``: indices that differ, or, where there are fewer of other
      classes, all of those over and over.
    """
    own = labels[index][:, None] == labels
    rank = jnp.where(own, -1.0, jax.random.uniform(key, own.shape))
    _, order = jax.lax.top_k(rank, count)
    others = jnp.sum(~own, axis=1, keepdims=True)
    place = jnp.arange(count) % jnp.maximum(others, 1)
    return jnp.take_along_axis(order, place, axis=1)


def _examples(batch: Batch) -> tuple[jax.Array, jax.Array]:
    missing = [name for name in ("index", "train_labels") if name not in batch]
    if missing:
        raise UserError(
            f"Method 'crd' remembers every training image, but the batch has no "
            f"{' and no '.join(missing)}. Use data that are held in memory."
        )
    return batch["index"], batch["train_labels"]


def _check(spec: Spec, negatives, features, temperature, momentum) -> None:
    if spec.num_examples is None:
        raise UserError(
            "Method 'crd' remembers every training image by its number, but the data "
            "are read from files, without numbers. Use data that are held in memory."
        )
    if min(negatives, features) < 1 or temperature <= 0 or not 0 <= momentum < 1:
        raise UserError(
            f"Method 'crd' got negatives={negatives}, features={features}, "
            f"temperature={temperature} and momentum={momentum}, expected positive "
            "values, and a momentum in [0, 1)."
        )
