"""Losses of networks in parts: a teacher's branches, a student's separate backbone.

- Park et al., "Learning Student-Friendly Teacher Networks for Knowledge Distillation"
  (SFTN, arXiv:2102.07650): the teacher is trained together with copies of the student's
  later layers, attached to its own earlier ones.
- "Distilling Generative-Discriminative Representations for Very Low-Resolution Face
  Recognition" (GDRD, arXiv:2409.06371): a backbone learns to predict the features of a
  generative network.

See ``jaxkd.losses`` for the shared conventions.
"""

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import (
    Scalar,
    check_shapes,
    kl_divergence,
    student_side,
    teacher_side,
)
from jaxkd.losses.numerics import check_same_shape


def branch_divergence(
    branch_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: Scalar = 1.0,
    teacher_gradient: bool = True,
) -> jax.Array:
    """Computes how far a branch is from the teacher that it grows on (SFTN).

    ``T^2 KL(branch || teacher)`` of the softmaxes at temperature ``T``. Branch and
    teacher are trained together, so the gradient goes into both: this is what makes
    the teacher easy to follow.

    Args:
      branch_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      temperature: ``T``, positive. The paper's teachers are trained with 1.
      teacher_gradient: whether the teacher is differentiated.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_shapes(branch_logits, teacher_logits)
    side = student_side if teacher_gradient else teacher_side
    branch = student_side(branch_logits) / temperature
    return temperature**2 * kl_divergence(branch, side(teacher_logits) / temperature)


def relative_error(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the squared error in units of the teacher's mean square (GDRD).

    ``mean(|s - t|^2) / mean(|t|^2)``, both over the whole batch: 1 for a student that
    always says 0.

    Args:
      student: ``[batch, ...]``, already mapped to the teacher's shape.
      teacher: ``[batch, ...]``.

    Returns:
      A scalar: the denominator belongs to the batch.

    Raises:
      ValueError: if shapes differ.
    """
    check_same_shape(student, teacher)
    s, t = student_side(student), teacher_side(teacher)
    return jnp.mean((s - t) ** 2) / jnp.maximum(jnp.mean(t**2), 1e-12)
