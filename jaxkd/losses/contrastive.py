"""Contrastive representation distillation (CRD) as pure functions.

Tian et al., "Contrastive Representation Distillation" (arXiv:1910.10699).
A student's embedding is to agree with the teacher's embedding of the same image more
than with those of other images, which are read from a memory of one embedding per
training image. One memory holds the student's embeddings and one the teacher's. The
published loss is ``crd`` of the student's embeddings against the teacher's memory plus
``crd`` of the *teacher's* embeddings against the student's memory, since both
embeddings are trained linear maps of pooled features, scaled to length 1.

A step, for each of the two sides: read ``memory[index]``, the image itself first and
then negatives; at the first step only, compute ``crd_normalizer``; compute ``crd``;
afterwards replace the memory by ``crd_update``. The published settings are 128
features, 16384 negatives of other classes, temperature 0.07 and momentum 0.5, in
cross-entropy + 0.8 times the sum of both sides.
"""

import math

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import (
    Scalar,
    student_side,
    teacher_side,
)
from jaxkd.losses.numerics import einsum, unit


def crd(
    embeddings: jax.Array,
    entries: jax.Array,
    *,
    normalizer: jax.Array,
    num_examples: int,
    temperature: Scalar = 0.07,
) -> jax.Array:
    """Computes the contrastive loss of one side.

    With ``P = exp(<v, m> / T) / Z`` and ``c = K / N`` for ``K`` negatives out of ``N``
    training images, ``-log(P_0 / (P_0 + c + 1e-7)) - sum_k log(c / (P_k + c + 1e-7))``.
    It is computed from the logarithm of
    ``P``, and so is finite for embeddings of any length.

    Args:
      embeddings: ``[batch, features]``, of length 1; differentiated.
      entries: ``[batch, 1 + negatives, features]``, the *other* network's memory: of
        the image itself first, then of the negatives. Not differentiated.
      normalizer: ``Z``, positive, see ``crd_normalizer``.
      num_examples: ``N``, the number of rows of the memory.
      temperature: ``T``, positive.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    _check_entries(embeddings, entries)
    log_p = _scores(embeddings, entries, temperature)
    log_p = log_p - jnp.log(teacher_side(normalizer))
    chance = (entries.shape[1] - 1) / num_examples
    log_sum = jnp.logaddexp(log_p, math.log(chance + 1e-7))
    positive = log_p[:, 0] - log_sum[:, 0]
    return -positive - jnp.sum(math.log(chance) - log_sum[:, 1:], axis=1)


def crd_normalizer(
    embeddings: jax.Array,
    entries: jax.Array,
    *,
    num_examples: int,
    temperature: Scalar = 0.07,
) -> jax.Array:
    """Estimates the constant ``Z`` of one side from its first batch.

    ``N`` times the mean of ``exp(<v, m> / T)`` over the batch and its entries, as the
    official code does. It is kept unchanged for the rest of training.

    Args:
      embeddings: ``[batch, features]``.
      entries: ``[batch, 1 + negatives, features]``.
      num_examples: ``N``, the number of rows of the memory.
      temperature: ``T``, positive.

    Returns:
      A scalar, without gradient: it belongs to the whole batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    _check_entries(embeddings, entries)
    scores = _scores(embeddings, entries, temperature)
    return jax.lax.stop_gradient(num_examples * jnp.mean(jnp.exp(scores)))


def crd_update(
    memory: jax.Array,
    embeddings: jax.Array,
    index: jax.Array,
    *,
    momentum: Scalar = 0.5,
) -> jax.Array:
    """Moves the memory of a batch's images towards their new embeddings.

    ``m <- unit(momentum * m + (1 - momentum) * v)``. The memory read for a batch's
    loss must be the one from before this update.

    Args:
      memory: ``[examples, features]``.
      embeddings: ``[batch, features]``, the *same* network's.
      index: integers ``[batch]``, the images' rows of the memory. Where one occurs
        twice, either of its embeddings may be the one that is kept.
      momentum: in [0, 1).

    Returns:
      The new memory, of the old one's type, without gradient.

    Raises:
      ValueError: if shapes do not fit.
    """
    rows, features = jnp.shape(embeddings)[:1], jnp.shape(embeddings)[1:]
    if jnp.shape(memory)[1:] != features or jnp.shape(index) != rows:
        raise ValueError(
            f"memory has shape {jnp.shape(memory)}, embeddings {jnp.shape(embeddings)} "
            f"and index {jnp.shape(index)}, expected [examples, features], [batch, "
            "features] and [batch]."
        )
    memory = jnp.asarray(memory)
    old, new = teacher_side(memory[index]), teacher_side(embeddings)
    mixed = unit(momentum * old + (1 - momentum) * new)
    return jax.lax.stop_gradient(memory).at[index].set(mixed.astype(memory.dtype))


def _scores(embeddings, entries, temperature: Scalar) -> jax.Array:
    """Computes ``<v, m> / T`` for every entry: ``[batch, 1 + negatives]``."""
    v, m = student_side(embeddings), teacher_side(entries)
    return einsum("bf,bkf->bk", v, m) / temperature


def _check_entries(embeddings, entries) -> None:
    got, stored = jnp.shape(embeddings), jnp.shape(entries)
    fits = len(got) == 2 and len(stored) == 3 and got == (stored[0], stored[2])
    if not fits or stored[1] < 2:
        raise ValueError(
            f"embeddings have shape {got} and entries {stored}, expected [batch, "
            "features] and [batch, 1 + negatives, features] with at least one negative."
        )
