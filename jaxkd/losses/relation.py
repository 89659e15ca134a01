"""Losses that compare how a batch is arranged, not where it lies.

Student and teacher may have any number of features: only distances, angles and
similarities *between the rows of the batch* are compared. Such a loss couples the
batch, so each function here returns a scalar, and means the whole batch it is given:
code mapped over shards relates the rows of each shard only, whereas a batch sharded
by ``jax.jit`` is still one batch. See ``jaxkd.losses`` for the shared conventions.

Equal rows and zero rows give finite gradients. Between equal rows there is no
direction, and no gradient flows.
"""

import jax
import jax.numpy as jnp
import optax

from jaxkd.losses._masked import student_side, teacher_side
from jaxkd.losses.numerics import check_batches, einsum, flat_rows, length, unit


def pkt(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes probabilistic knowledge transfer between batches (PKT).

    The similarity of two rows is ``(cosine + 1) / 2``; divided by its row's sum, own
    similarity included, it is a probability ``p``. The loss is the mean over all pairs
    of ``p_t log((p_t + 1e-7) / (p_s + 1e-7))``. Passalis and Tefas, "Learning Deep
    Representations with Probabilistic Knowledge Transfer" (arXiv:1803.10837, with
    cosine similarity). The benchmarks take cross-entropy + 30000 times this,
    on the pooled features.

    Args:
      student: ``[batch, ...]``, flattened to rows.
      teacher: ``[batch, ...]``, likewise, with any number of features.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_batches(student, teacher)
    q = _row_probabilities(student_side(student))
    p = _row_probabilities(teacher_side(teacher))
    return jnp.mean(p * (jnp.log(p + 1e-7) - jnp.log(q + 1e-7)))


def rkd_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the distance-wise loss of relational knowledge distillation (RKD-D).

    Distances between rows, at least 1e-6, are divided by their mean over all pairs of
    two rows, in each network by its own. The loss is the mean over all ``batch^2``
    pairs of the Huber loss (``delta = 1``) of their difference. Park et al.,
    "Relational Knowledge Distillation" (arXiv:1904.05068, section 3.2.1). The
    benchmarks take cross-entropy + 25 times this + 50 times ``rkd_angle``, on the
    pooled features.

    Distances come from differences of rows. The official code expands the square,
    which loses the distance of close rows to rounding.

    Args:
      student: ``[batch, ...]``, flattened to rows.
      teacher: ``[batch, ...]``, likewise, with any number of features.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_batches(student, teacher)
    s = _relative_distances(student_side(student))
    t = _relative_distances(teacher_side(teacher))
    return jnp.mean(optax.huber_loss(s, t))


def rkd_angle(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the angle-wise loss of relational knowledge distillation (RKD-A).

    The mean over all ``batch^3`` triples of the Huber loss (``delta = 1``) of the
    difference in the cosine of the angle that rows ``j`` and ``k`` form as seen from
    row ``i``. The cosine is 0 where ``j`` or ``k`` coincides with ``i``. Park et al.
    (arXiv:1904.05068, section 3.2.2); for weights see ``rkd_distance``.

    Memory grows with ``batch^2 * (batch + features)``.

    Args:
      student: ``[batch, ...]``, flattened to rows.
      teacher: ``[batch, ...]``, likewise, with any number of features.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_batches(student, teacher)
    s = _cosines(student_side(student))
    t = _cosines(teacher_side(teacher))
    return jnp.mean(optax.huber_loss(s, t))


def similarity_preserving(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the similarity-preserving loss (SP).

    The products of all pairs of rows form ``[batch, batch]``, whose rows are scaled to
    length 1; the loss is the squared Frobenius norm of the difference, divided by
    ``batch^2``. Tung and Mori, "Similarity-Preserving Knowledge Distillation"
    (arXiv:1907.09682). The benchmarks take cross-entropy + 3000
    times this, on the last feature map.

    Args:
      student: ``[batch, ...]``, flattened to rows.
      teacher: ``[batch, ...]``, likewise, with any number of features.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_batches(student, teacher)
    rows = [flat_rows(x) for x in (student_side(student), teacher_side(teacher))]
    s, t = (unit(einsum("if,jf->ij", x, x)) for x in rows)
    return jnp.mean((s - t) ** 2)


def _row_probabilities(x: jax.Array) -> jax.Array:
    """Turns rows into ``[batch, batch]`` probabilities by cosine similarity."""
    x = flat_rows(x)
    size = length(x)
    # The published offset, applied so that a zero row still gets no gradient.
    x = unit(x) * (size / (size + 1e-7))
    similarity = (einsum("if,jf->ij", x, x) + 1) / 2
    return similarity / jnp.sum(similarity, axis=1, keepdims=True)


def _differences(x: jax.Array) -> jax.Array:
    """Subtracts row ``i`` from row ``j``: ``[batch, batch, features]``."""
    x = flat_rows(x)
    return x[None, :] - x[:, None]


def _relative_distances(x: jax.Array) -> jax.Array:
    """Divides distances by their mean over pairs of different rows."""
    rows = x.shape[0]
    square = jnp.sum(_differences(x) ** 2, axis=-1)
    # The maximum has gradient 0 below, so the root is never differentiated at zero.
    distance = jnp.sqrt(jnp.maximum(square, 1e-12))
    distance = jnp.where(jnp.eye(rows, dtype=bool), 0, distance)
    pairs = max(rows * (rows - 1), 1)
    mean = jnp.sum(distance) / pairs
    return distance / (mean if rows > 1 else 1)


def _cosines(x: jax.Array) -> jax.Array:
    """Computes the cosine at row i between rows j and k: ``[batch] * 3``."""
    directions = unit(_differences(x))
    return einsum("ijf,ikf->ijk", directions, directions)
