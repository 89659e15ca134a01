"""Baselines that use the labels to correct a teacher's mistakes.

Sun et al. (arXiv:2408.07703) compare refined logit distillation with three of them,
called LA, RC and LR in their tables. Each is given here as its code in that paper's
release defines it, with the full recipe in the docstring. See ``jaxkd.losses`` for
the conventions shared by all losses.
"""

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import (
    Scalar,
    check_shapes,
    drop_rows,
    kl_divergence,
    label_side,
    one_hot,
    pick,
    reject_labels,
    student_side,
    teacher_side,
)
from jaxkd.losses.logit import cross_entropy


def swap_labels(teacher_logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Exchanges the teacher's largest logit with that of the label (LA).

    Where the teacher is right nothing changes. LA trains with ``kd`` against these
    logits and *without* cross-entropy. Wen et al., "Preparing Lessons: Improve
    Knowledge Distillation with Better Supervision" (arXiv:1911.07471), introduced the
    exchange as probability shift; it is called LA in arXiv:2408.07703.

    Args:
      teacher_logits: ``[..., classes]``. Of several largest, the first is exchanged.
      labels: integers ``[...]``.

    Returns:
      ``[..., classes]``, without gradient.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_shapes(teacher_logits, labels=labels)
    teacher = jax.lax.stop_gradient(jnp.asarray(teacher_logits))
    classes = teacher.shape[-1]
    label = one_hot(labels, classes)
    top = one_hot(jnp.argmax(teacher, axis=-1), classes)
    swapped = jnp.where(top, pick(teacher, label)[..., None], teacher)
    swapped = jnp.where(label, jnp.max(teacher, axis=-1, keepdims=True), swapped)
    return reject_labels(swapped, jnp.asarray(labels), classes)


def review_correct(
    student_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Scalar,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the self-correction term of RC, which needs no teacher.

    ``T^2 KL(softmax(u / T) || softmax(s / T))``. The target ``u`` is the student's own
    logits without gradient, except ``u_y = s_y + max_c s_c`` for the label ``y``.
    Since the new value is a sum, it is *lower* than ``s_y`` when all logits are
    negative; that is how the baseline is defined. RC trains with cross-entropy
    + ``kd`` + 0.1 times this term. It is called RC in arXiv:2408.07703.

    Args:
      student_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      temperature: ``T``, positive.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_shapes(student_logits, labels=labels, where=where)
    student = student_side(student_logits, where)
    target = jax.lax.stop_gradient(student)
    labels, classes = label_side(labels, where), student.shape[-1]
    label = one_hot(labels, classes)
    target = target + jnp.where(label, jnp.max(target, axis=-1, keepdims=True), 0)
    divergence = kl_divergence(target / temperature, student / temperature)
    divergence = reject_labels(divergence, labels, classes)
    return temperature**2 * drop_rows(divergence, where)


def revise_labels(
    teacher_logits: jax.Array, labels: jax.Array, *, eta: Scalar = 0.8
) -> jax.Array:
    """Mixes the teacher's probabilities with the label so that the label wins.

    ``k p + (1 - k) onehot(y)`` with ``p = softmax(t)`` and
    ``k = eta / (max_c p_c - p_y + 1)``. Lan et al., "Improve Knowledge Distillation
    via Label Revision and Data Selection" (arXiv:2404.03693).

    Args:
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      eta: in (0, 1); below 1 the label's probability is the largest.

    Returns:
      Probabilities ``[..., classes]``, without gradient, at least float32.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_shapes(teacher_logits, labels=labels)
    p = jax.nn.softmax(teacher_side(teacher_logits))
    label = one_hot(labels, p.shape[-1])
    share = eta / (jnp.max(p, axis=-1) - pick(p, label) + 1)[..., None]
    revised = share * p + (1 - share) * label
    return reject_labels(revised, jnp.asarray(labels), p.shape[-1])


def label_revision(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    eta: Scalar = 0.8,
    match_weight: Scalar = 4.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the loss of label revision (LR), cross-entropy included.

    Rows where the teacher is right (``R`` of them) and wrong (``W``) are averaged
    separately: ``mean_R CE(s, y) + match_weight * mean_R (s - t)^2
    + mean_W (softmax(s) - r)^2``, squares averaged over classes too, with ``r`` from
    ``revise_labels``. An empty part counts as 0; wrong rows have no cross-entropy.
    Lan et al. (arXiv:2404.03693), as the LR baseline of arXiv:2408.07703; data
    selection, the second half of Lan et al., is not part of it.

    This loss couples the batch through ``R`` and ``W``: every row is scaled by
    ``(R + W) / R`` or ``(R + W) / W``, so that the mean over all rows kept is the
    published value. The counts run over all leading axes of the arrays given; code
    mapped over shards therefore counts per shard.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      eta: see ``revise_labels``.
      match_weight: weight of the squared distance of raw logits.
      where: ``[...]``, False for rows to leave out; they are not counted.

    Returns:
      ``[...]``. Divide their sum by the number of rows kept.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_shapes(student_logits, teacher_logits, labels, where)
    student = student_side(student_logits, where)
    teacher = teacher_side(teacher_logits, where)
    kept = jnp.ones(student.shape[:-1], bool) if where is None else jnp.asarray(where)
    labels = label_side(labels, where)
    right = jnp.argmax(teacher, axis=-1) == labels

    ce = cross_entropy(student, labels)
    match = jnp.mean((student - teacher) ** 2, axis=-1)
    revised = revise_labels(teacher, labels, eta=eta)
    revision = jnp.mean((jax.nn.softmax(student) - revised) ** 2, axis=-1)
    return _scaled_to_mean(
        ce + match_weight * match, right & kept, kept
    ) + _scaled_to_mean(revision, ~right & kept, kept)


def _scaled_to_mean(loss: jax.Array, part: jax.Array, kept: jax.Array) -> jax.Array:
    """Scales the rows of a part so that the mean over kept rows is the part's mean."""
    scale = jnp.sum(kept) / jnp.maximum(jnp.sum(part), 1)
    return jnp.where(part, loss * scale.astype(loss.dtype), 0)
