"""CRD: the student tells images apart as the teacher does (arXiv:1910.10699).

Both networks' pooled features are embedded in one space. A student's embedding is to
agree with the teacher's of the same image, and with none of images of other classes,
and the other way round; embeddings of other images are read from memories: of every
training image, as published, or, where these are too many or are read from files, of
the newest ones, in a queue as MoCo's (arXiv:1911.05722).
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
    queue: int = 0,
    crd_weight: float = 0.8,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + crd_weight * CRD``; see ``distillation``.

    A step reads ``batch * negatives * features`` numbers for each of the two sides.

    Args:
      spec: the run; without a queue its training examples must be in memory.
      negatives: images of other classes that each image is told apart from, at most
        the number of all other images. They are drawn without replacement; where there
        are not that many of other classes, each is drawn about equally often.
      features: of an embedding.
      temperature: that products of embeddings are divided by.
      momentum: of the memories, in [0, 1); a queue has none.
      queue: how many of the newest images are remembered, instead of all; at least
        the batch size. A student's embedding is then compared with the teacher's of
        this very step, and those of other images are read from the queue.
      crd_weight: of both sides together.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the distillation's weight rises.

    Raises:
      UserError: if the training examples are not in memory and there is no queue, or
        an option is out of range.
    """
    _check(spec, negatives, features, temperature, momentum, queue)
    options = negatives, features, temperature, momentum
    return distillation.with_adapter(
        spec,
        "crd",
        QueueContrast(*options, size=queue) if queue else Contrast(*options),
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


class QueueContrast(Contrast):
    """Embeds both networks' features and remembers the newest embeddings.

    The collection ``memory`` holds a ring of ``size`` embeddings of each side, their
    classes ``labels`` (-1 while nothing has been written), the ``place`` to write next,
    and ``normalizers`` and ``started`` as ``Contrast`` does.
    """

    size: int = 0

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Returns both sides' losses of each example, added up: ``[batch]``.

        Raises:
          UserError: if a batch is larger than the queue.
        """
        labels = batch["label"]
        if len(labels) > self.size:
            raise UserError(
                f"Method 'crd' got queue={self.size}, expected at least the "
                f"{len(labels)} examples of a batch."
            )
        embedded = (
            self._embed("student", outputs["features"]["pooled"]),
            self._embed("teacher", targets["teacher"]["features"]["pooled"]),
        )
        memory = [self._memory(side, self.size) for side in ("student", "teacher")]
        held = self.variable("memory", "labels", lambda: jnp.full(self.size, -1))
        place = self.variable("memory", "place", lambda: jnp.zeros((), jnp.int32))
        normalizers = self.variable("memory", "normalizers", jnp.ones, (2,))
        started = self.variable("memory", "started", jnp.zeros, (), bool)
        if self.is_initializing():
            return jnp.zeros(len(labels))

        count = min(self.negatives, self.size)
        own = labels[:, None] == held.value
        others = _draw(self.make_rng("sample"), own, count)
        # Of the same image, the other side's embedding; it is held still, as memories.
        partners = jax.lax.stop_gradient(embedded[::-1])
        sides = [
            self._side(
                v,
                jnp.concatenate([partner[:, None], m.value[others]], axis=1),
                z,
                started.value,
                self.size,
            )
            for v, partner, m, z in zip(
                embedded, partners, memory[::-1], normalizers.value, strict=True
            )
        ]
        normalizers.value = jnp.stack([z for _, z in sides])
        started.value = jnp.ones((), bool)
        rows = (place.value + jnp.arange(len(labels))) % self.size
        for ring, v in zip(memory, embedded, strict=True):
            newest = jax.lax.stop_gradient(v)
            ring.value = jnp.asarray(ring.value).at[rows].set(newest)
        held.value = jnp.asarray(held.value).at[rows].set(labels)
        place.value = (place.value + len(labels)) % self.size
        return sides[0][0] + sides[1][0]


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
    return _draw(key, labels[index][:, None] == labels, count)


def _draw(key: jax.Array, own: jax.Array, count: int) -> jax.Array:
    """Draws ``[batch, count]`` columns where ``own`` ``[batch, columns]`` is False."""
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


def _check(spec: Spec, negatives, features, temperature, momentum, queue) -> None:
    if spec.num_examples is None and not queue:
        raise UserError(
            "Method 'crd' remembers every training image by its number, but the data "
            "are read from files, without numbers. Set config.loss.queue, such as "
            "16384, to remember the newest images instead, or use data that are held "
            "in memory."
        )
    if (
        queue < 0
        or min(negatives, features) < 1
        or temperature <= 0
        or not 0 <= momentum < 1
    ):
        raise UserError(
            f"Method 'crd' got negatives={negatives}, features={features}, "
            f"temperature={temperature}, momentum={momentum} and queue={queue}, "
            "expected positive values, a momentum in [0, 1), and a queue of at least "
            "0."
        )
