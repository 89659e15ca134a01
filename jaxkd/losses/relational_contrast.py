"""Contrast of relations and of examples between two networks' embeddings.

Zhang et al., "Cross-Resolution Relational Contrastive Distillation" (CRRCD,
arXiv:2409.02555), teach a student of small images by relations in a contrastive space:
the direction from one image to another, where an end is the student's, is to agree with
the direction between the teacher's. Its equations are not public; what is here follows
complementary relation contrastive distillation (CRCD, arXiv:2103.16367), the nearest
public description. ``relation_contrast`` finds its negatives in the batch,
``relation_nce`` in a memory of one embedding per training image, kept by ``crd_update``
(``jaxkd.losses.contrastive``).

``instance_contrast`` is the relation between single images, as in adaptable
instance-relation distillation (AIRD, arXiv:2409.02049). See ``jaxkd.losses`` for the
shared conventions.
"""

import math

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import Scalar, student_side, teacher_side
from jaxkd.losses.numerics import check_batches, check_same_shape, einsum, unit


def instance_contrast(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    temperature: Scalar = 0.1,
) -> jax.Array:
    """Computes how badly a student's row finds the teacher's row of its own image.

    InfoNCE: minus the log of a softmax of ``cos(s_i, t_j) / temperature`` at ``j = i``,
    over ``i`` itself and the images of *other* classes.

    Args:
      student: ``[batch, features]``, already mapped to the teacher's features.
      teacher: ``[batch, features]``.
      labels: integers ``[batch]``.
      temperature: positive.

    Returns:
      ``[batch]``; it depends on the batch's other rows.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_same_shape(student, teacher)
    _check_rows(labels, student)
    s, t = unit(student_side(student)), unit(teacher_side(teacher))
    scores = einsum("if,jf->ij", s, t) / temperature
    own = jnp.eye(len(s), dtype=bool)
    wanted = own | (labels[:, None] != labels)
    scores = jnp.where(wanted, scores, -jnp.inf)
    return jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(scores)


def relation_contrast(
    student: jax.Array,
    teacher: jax.Array,
    *,
    labels: jax.Array | None = None,
    temperature: Scalar = 0.1,
) -> jax.Array:
    """Computes the relational contrast within a batch (the student's half of CRRCD).

    For an anchor ``a`` and another image ``b``, the direction from the teacher's
    ``t_a`` to the student's ``s_b`` is compared with those from ``t_a`` to every
    ``t_k``, ``k != a``: InfoNCE with ``k = b`` as the positive. The mean over all
    ``a != b``.

    Memory grows with ``batch^3``.

    Args:
      student: embeddings ``[batch, features]``, of length 1; differentiated.
      teacher: embeddings ``[batch, features]``, of length 1. For the teacher's half,
        which trains the teacher's embedding, exchange the two.
      labels: integers ``[batch]``; if given, other images of ``b``'s class are no
        negatives.
      temperature: positive.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit, or there are fewer than three rows.
    """
    check_same_shape(student, teacher)
    count = len(student)
    if count < 3:
        raise ValueError(
            f"The batch has {count} rows, expected three or more: an anchor, a "
            "positive and a negative."
        )
    s, t = student_side(student), teacher_side(teacher)
    asked = unit(s[None, :] - t[:, None])  # [anchor, b, features]
    offered = unit(t[None, :] - t[:, None])  # [anchor, k, features]
    scores = einsum("abf,akf->abk", asked, offered) / temperature
    own = jnp.eye(count, dtype=bool)
    wanted = jnp.ones((count, count), bool)
    if labels is not None:
        _check_rows(labels, student)
        wanted = own | (labels[:, None] != labels)
    candidates = wanted[None] & ~own[:, None, :]  # not the anchor itself
    # An anchor is no positive of itself: rows b = a have none, and do not count.
    candidates = candidates | own[:, :, None]
    scores = jnp.where(candidates, scores, -jnp.inf)
    loss = jax.nn.logsumexp(scores, axis=2) - jnp.diagonal(scores, axis1=1, axis2=2)
    return jnp.sum(jnp.where(own, 0, loss)) / (count * (count - 1))


def relation_nce(
    embeddings: jax.Array,
    anchors: jax.Array,
    entries: jax.Array,
    *,
    normalizer: jax.Array,
    num_examples: int,
    temperature: Scalar = 0.05,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the relational contrast against a memory (one side of CRCD).

    The direction from anchor ``a`` to ``embeddings[b]`` is compared with those to the
    entries of ``b``: ``P_bak = exp(<direction, direction_k> / T) / Z``. With
    ``c = K / N``, the loss of ``(b, a)`` is
    ``-log(P_0 / (P_0 + c + 1e-7)) - sum_k log(c / (P_k + c + 1e-7))``.

    Anchors are taken in turn, and their parts computed again for the gradient, so that
    memory grows with ``batch * entries * features`` alone.

    Args:
      embeddings: ``[batch, features]``, of length 1; differentiated.
      anchors: ``[anchors, features]``: the other network's memory of some images.
        Not differentiated.
      entries: ``[batch, 1 + negatives, features]``: the other network's memory of the
        image itself first, then of others. Not differentiated.
      normalizer: ``Z``, positive; see ``relation_normalizer``.
      num_examples: ``N``, the rows of the memory.
      temperature: ``T``, positive.
      where: ``[batch, anchors]``, which of the relations count; None means all. An
        image has no direction to itself.

    Returns:
      ``[batch]``: the mean over the anchors that count.

    Raises:
      ValueError: if shapes do not fit.
    """
    _check_memory(embeddings, anchors, entries)
    v, stored, fixed = (
        student_side(embeddings),
        teacher_side(entries),
        teacher_side(anchors),
    )
    chance = (entries.shape[1] - 1) / num_examples
    log_z = jnp.log(teacher_side(normalizer))

    @jax.checkpoint
    def of_anchor(anchor: jax.Array) -> jax.Array:
        log_p = _relation_scores(v, anchor, stored, temperature) - log_z
        log_sum = jnp.logaddexp(log_p, math.log(chance + 1e-7))
        positive = log_p[:, 0] - log_sum[:, 0]
        return -positive - jnp.sum(math.log(chance) - log_sum[:, 1:], axis=1)

    loss = jax.lax.map(of_anchor, fixed)  # [anchors, batch]
    counted = jnp.ones(loss.shape, bool) if where is None else jnp.asarray(where).T
    total = jnp.sum(jnp.where(counted, loss, 0), axis=0)
    return total / jnp.maximum(jnp.sum(counted, axis=0), 1)


def relation_normalizer(
    embeddings: jax.Array,
    anchors: jax.Array,
    entries: jax.Array,
    *,
    num_examples: int,
    temperature: Scalar = 0.05,
) -> jax.Array:
    """Estimates the constant ``Z`` of one side from its first batch.

    ``N`` times the mean of ``exp(<direction, direction_k> / T)``; arguments as of
    ``relation_nce``.

    Returns:
      A scalar, without gradient: it belongs to the whole batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    _check_memory(embeddings, anchors, entries)
    v, stored, fixed = (teacher_side(x) for x in (embeddings, entries, anchors))

    def of_anchor(anchor: jax.Array) -> jax.Array:
        return jnp.mean(jnp.exp(_relation_scores(v, anchor, stored, temperature)))

    return num_examples * jnp.mean(jax.lax.map(of_anchor, fixed))


def _relation_scores(v, anchor, entries, temperature: Scalar) -> jax.Array:
    """Computes ``<unit(v - a), unit(m - a)> / T``: ``[batch, 1 + negatives]``."""
    asked, offered = unit(v - anchor), unit(entries - anchor)
    return einsum("bf,bkf->bk", asked, offered) / temperature


def _check_rows(labels, student) -> None:
    if jnp.shape(labels) != jnp.shape(student)[:1]:
        raise ValueError(
            f"labels have shape {jnp.shape(labels)}, expected one per row of the "
            f"student's {jnp.shape(student)}."
        )


def _check_memory(embeddings, anchors, entries) -> None:
    check_batches(embeddings, entries)
    got = jnp.shape(embeddings), jnp.shape(anchors), jnp.shape(entries)
    fits = [len(shape) for shape in got] == [2, 2, 3]
    if not fits or len({shape[-1] for shape in got}) > 1 or got[2][1] < 2:
        raise ValueError(
            f"embeddings have shape {got[0]}, anchors {got[1]} and entries {got[2]}, "
            "expected [batch, features], [anchors, features] and [batch, 1 + "
            "negatives, features] with at least one negative."
        )
