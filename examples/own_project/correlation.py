"""A loss of one's own: the student's logits correlate with the teacher's."""

import jax
import jax.numpy as jnp

from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation


def decorrelation(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes one minus Pearson's correlation of two rows of logits.

    Args:
      student: ``[..., classes]``.
      teacher: likewise.

    Returns:
      ``[...]``, from 0 (the same up to scale and shift) to 2.
    """
    student = student - student.mean(-1, keepdims=True)
    teacher = teacher - teacher.mean(-1, keepdims=True)
    product = jnp.sum(student * teacher, axis=-1)
    squares = jnp.sum(student**2, axis=-1) * jnp.sum(teacher**2, axis=-1)
    return 1 - product * jax.lax.rsqrt(squares + 1e-12)


def make(spec: Spec, *, correlation_weight: float = 2.0) -> Method:
    """Makes a student of CE plus ``correlation_weight`` times the term above."""

    def term(student, teacher, labels):
        del labels
        return decorrelation(student, teacher)

    return distillation.from_logits(
        spec, "correlation", term, ce_weight=1.0, weight=correlation_weight
    )
