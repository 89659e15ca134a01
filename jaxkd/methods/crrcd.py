"""CRRCD: relations between small images follow those of large ones, by contrast.

"Cross-Resolution Relational Contrastive Distillation" (arXiv:2409.02555). The
student's and the teacher's pooled features are embedded in one space; the direction
from the teacher's embedding of one image to the *student's* of another is to agree with
the direction between the teacher's, more than with directions to other images. The
equations are not public; what is here follows CRCD (arXiv:2103.16367).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Stretch
from jaxkd.core.types import Batch, LossInputs, Method, Spec
from jaxkd.losses.numerics import unit
from jaxkd.methods.common import adapters, distillation, embedding
from jaxkd.methods.crd import draw_negatives
from jaxkd.models import layers

NAME = "contrast"


def make(
    spec: Spec,
    *,
    contrast_weight: float = 0.8,
    kd_weight: float = 1.0,
    ce_weight: float = 1.0,
    negatives: int = 0,
    features: int = 128,
    temperature: float = 0.1,
    momentum: float = 0.5,
    kd_temperature: float = 4.0,
    warmup: float = 0.0,
    fade: Stretch | None = None,
    layer: embedding.Layer = "pooled",
    eval_sizes: tuple[int, ...] = (),
) -> Method:
    """Makes a student of ``ce_weight * CE + kd * KD + contrast * (student's half +
    teacher's half)``.

    Args:
      spec: the run.
      contrast_weight: weight of both halves of the relational contrast.
      kd_weight: weight of the divergence of the logits times the squared temperature.
      ce_weight: of the cross entropy with the labels.
      negatives: 0 takes the other images of the batch, for small data; otherwise so
        many of other classes from memories of all training images, as CRCD does
        (500, with temperature 0.05).
      features: of an embedding.
      temperature: of the contrast.
      momentum: of the memories, in [0, 1).
      kd_temperature: of KD.
      warmup: units over which the distillation's weight rises.
      fade: units between which it falls to 0, linearly; None keeps it. CRCD drops it
        for the last 4 % of its epochs.
      layer: see ``jaxkd.methods.horkd``.
      eval_sizes: likewise.

    Raises:
      UserError: if an option is out of its range, memories are asked for and the
        training examples are not in memory, or a network lacks the layer.
    """
    _check(spec, negatives, features, temperature, momentum)
    embedding.check_layer(spec, "crrcd", layer, eval_sizes)
    adapter = Relations(negatives, features, temperature, momentum, layer)

    relate = functools.partial(adapters.apply, adapter, NAME)

    def soften(inputs: LossInputs):
        logits = inputs.outputs["logits"], inputs.targets["teacher"]["logits"]
        return losses.kd(*logits, temperature=kd_temperature)

    method = distillation.student(
        spec,
        "crrcd",
        {NAME: (contrast_weight, relate), "kd": (kd_weight, soften)},
        ce_weight=ce_weight,
        warmup=warmup,
        fade=fade,
    )
    method = adapters.with_variables(method, spec, NAME, adapter)
    return embedding.measured(method, spec, layer, eval_sizes)


class Relations(nn.Module):
    """Embeds both networks' features, and contrasts their relations.

    With ``negatives``, the collection ``memory`` holds the embeddings of all training
    images, ``student`` and ``teacher``, and the constants of both sides, which the
    first batch sets. Attributes are arguments of ``make``.
    """

    negatives: int
    features: int
    temperature: float
    momentum: float
    layer: embedding.Layer = "pooled"

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Returns both halves of the contrast, added up: a scalar."""
        student = self._embed("student", outputs["features"][self.layer])
        teacher = self._embed("teacher", targets["teacher"]["features"][self.layer])
        if self.negatives:
            return self._with_memory(student, teacher, batch)
        if self.is_initializing():  # of two images, which have no relations to contrast
            return jnp.zeros(())
        return self._half(student, teacher) + self._half(teacher, student)

    def _embed(self, side: str, rows: jax.Array) -> jax.Array:
        return unit(layers.Linear(self.features, name=f"embed_{side}")(rows))

    def _half(self, moving: jax.Array, fixed: jax.Array) -> jax.Array:
        return losses.relation_contrast(moving, fixed, temperature=self.temperature)

    def _with_memory(self, student, teacher, batch: Batch) -> jax.Array:
        index, labels = batch["index"], batch["train_labels"]
        memory = [self._memory(side, len(labels)) for side in ("student", "teacher")]
        normalizers = self.variable("memory", "normalizers", jnp.ones, (2,))
        started = self.variable("memory", "started", jnp.zeros, (), bool)
        if self.is_initializing():
            return jnp.zeros(())
        count = min(self.negatives, len(labels) - 1)
        others = draw_negatives(self.make_rng("sample"), index, labels, count)
        rows = jnp.concatenate([index[:, None], others], axis=1)
        found = [
            self._side(v, m.value, index, rows, started.value, z)
            for v, m, z in zip(
                (student, teacher), memory[::-1], normalizers.value, strict=True
            )
        ]
        normalizers.value = jnp.stack([z for _, z in found])
        started.value = jnp.ones((), bool)
        for own, v in zip(memory, (student, teacher), strict=True):
            own.value = losses.crd_update(own.value, v, index, momentum=self.momentum)
        return found[0][0] + found[1][0]

    def _memory(self, side: str, examples: int) -> nn.Variable:
        def init():
            key = self.make_rng("sample")
            return unit(jax.random.normal(key, (examples, self.features)))

        return self.variable("memory", side, init)

    def _side(self, v, memory, index, rows, started, normalizer):
        """Returns one half of the contrast, and its constant."""
        arguments = v, memory[index], memory[rows]
        first = losses.relation_normalizer(
            *arguments, num_examples=len(memory), temperature=self.temperature
        )
        normalizer = jnp.where(started, normalizer, first)
        value = losses.relation_nce(
            *arguments,
            normalizer=normalizer,
            num_examples=len(memory),
            temperature=self.temperature,
            where=index[:, None] != index,
        )
        return jnp.mean(value), normalizer


def _check(spec: Spec, negatives, features, temperature, momentum) -> None:
    if negatives and spec.num_examples is None:
        raise UserError(
            "Method 'crrcd' with negatives remembers every training image by its "
            "number, but the data are read from files. Use data that are held in "
            "memory, or negatives=0."
        )
    if negatives < 0 or features < 1 or temperature <= 0 or not 0 <= momentum < 1:
        raise UserError(
            f"Method 'crrcd' got negatives={negatives}, features={features}, "
            f"temperature={temperature} and momentum={momentum}, expected whole "
            "numbers of at least 0 and 1, a positive temperature, and a momentum in "
            "[0, 1)."
        )
