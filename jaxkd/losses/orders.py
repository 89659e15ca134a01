"""Hybrid-order relations: what one row, two rows and three rows of a batch say.

Ge et al., "Look One and More: Distilling Hybrid Order Relational Knowledge for
Cross-Resolution Image Recognition" (AAAI 2020, arXiv:2409.05384), match a student that
sees small images with a teacher that sees large ones by relations of order 1 (rows),
2 (pairs) and 3 (triplets). Orders 2 and 3 are those of relational knowledge
distillation (arXiv:1904.05068); the two networks may differ in their number of
features. The paper's weights are not public; the benchmarks of relational distillation
take 25 and 50 for orders 2 and 3.

Orders 2 and 3 come in two forms of equal value. ``"direct"`` subtracts rows, and keeps
the distances of close rows. ``"gram"`` takes them from the products of rows, without an
array ``[batch, batch, features]``; rows closer than about 1e-3 of their distance from
the batch's mean count as equal, since rounding hides their direction.

Further relations of the same kind: ``pkt`` and ``similarity_preserving`` of
``jaxkd.losses.relation``. See ``jaxkd.losses`` for the shared conventions.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxkd.losses._masked import Scalar, student_side, teacher_side
from jaxkd.losses.numerics import (
    check_batches,
    check_same_shape,
    einsum,
    flat_rows,
    unit,
)
from jaxkd.losses.relation import rkd_angle, rkd_distance

Form = Literal["direct", "gram"]

# Squared distances below this share of the rows' squared lengths are rounding.
_CLOSE = 1e-6


def first_order(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the squared distance of directions, ``2 - 2 cos`` (order 1).

    Both are scaled to length 1; the rest of HORKD's terms do not see where the batch
    lies, this one does. A zero row has no direction, and counts as the zero vector.

    Args:
      student: ``[batch, features]``, already mapped to the teacher's features.
      teacher: ``[batch, features]``.

    Returns:
      ``[batch]``, between 0 and 4.

    Raises:
      ValueError: if shapes differ.
    """
    check_same_shape(student, teacher)
    s, t = (unit(flat_rows(x)) for x in (student_side(student), teacher_side(teacher)))
    return jnp.sum((s - t) ** 2, axis=-1)


def second_order(
    student: jax.Array, teacher: jax.Array, *, form: Form = "direct"
) -> jax.Array:
    """Computes the mismatch of relative distances between pairs (order 2).

    Distances between rows over their mean, in each network by its own; the mean over
    all ``batch^2`` pairs of the Huber loss (``delta = 1``) of their difference. The
    direct form is ``rkd_distance``. Unchanged by a rotation, a shift and a scale of
    either network's rows.

    Args:
      student: ``[batch, ...]``, flattened to rows.
      teacher: ``[batch, ...]``, likewise, with any number of features.
      form: see above.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit, or there is no such form.
    """
    if _check_form(form) == "direct":
        return rkd_distance(student, teacher)
    check_batches(student, teacher)
    s, t = (_gram_distances(x) for x in (student_side(student), teacher_side(teacher)))
    return jnp.mean(optax.huber_loss(s, t))


def third_order(
    student: jax.Array,
    teacher: jax.Array,
    *,
    form: Form = "direct",
    chunk: int | None = None,
) -> jax.Array:
    """Computes the mismatch of angles within triplets (order 3).

    The cosine of the angle that rows ``j`` and ``k`` form as seen from row ``i``, 0
    where either coincides with ``i``; the mean over all ``batch^3`` triplets of the
    Huber loss (``delta = 1``) of its difference. The direct form in one piece is
    ``rkd_angle``. Unchanged by a rotation, a shift and a scale of either network's
    rows.

    Args:
      student: ``[batch, ...]``, flattened to rows.
      teacher: ``[batch, ...]``, likewise, with any number of features.
      form: see above.
      chunk: how many ``i`` to take at once, in the direct form: memory is then
        ``chunk * batch * (batch + features)`` numbers, in the gradient too, which
        computes them again. None takes all.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit, there is no such form, or it takes no chunks.
    """
    _check_form(form)
    if chunk is not None and (chunk < 1 or form == "gram"):
        raise ValueError(
            f"chunk is {chunk} with form {form!r}, expected a positive number, and the "
            "direct form."
        )
    if chunk is not None:
        return _chunked(student, teacher, chunk)
    if form == "direct":
        return rkd_angle(student, teacher)
    check_batches(student, teacher)
    s, t = (_gram_cosines(x) for x in (student_side(student), teacher_side(teacher)))
    return jnp.mean(optax.huber_loss(s, t))


def darkrank(
    student: jax.Array,
    teacher: jax.Array,
    *,
    alpha: Scalar = 3.0,
    beta: Scalar = 3.0,
    neighbours: int = 4,
) -> jax.Array:
    """Computes how unlikely the student finds the teacher's order of neighbours.

    Scores of two rows are ``-alpha * distance^beta``. The teacher's best ``neighbours``
    of each row, the row itself left out, are to come in the teacher's order: the loss
    is minus the log likelihood of that order, when the next one is drawn each time by
    a softmax of the student's scores of those not yet drawn. Chen et al., "DarkRank"
    (arXiv:1707.01220), the hard form.

    Args:
      student: ``[batch, ...]``, flattened to rows.
      teacher: ``[batch, ...]``, likewise, with any number of features.
      alpha: factor of the scores.
      beta: power of the distance, at least 1.
      neighbours: how many are ordered, less than the batch.

    Returns:
      ``[batch]``; it depends on the batch's other rows.

    Raises:
      ValueError: if shapes do not fit, or there are too few rows.
    """
    check_batches(student, teacher)
    count = len(student)
    if not 2 <= neighbours < count:
        raise ValueError(
            f"neighbours is {neighbours} in a batch of {count}, expected at least 2, "
            "and fewer than the batch."
        )
    s, t = (_distances(x) for x in (student_side(student), teacher_side(teacher)))
    others = jnp.where(jnp.eye(count, dtype=bool), jnp.inf, t)
    order = jnp.argsort(others, axis=1)[:, :neighbours]
    scores = -alpha * jnp.take_along_axis(s, order, axis=1) ** beta
    left = jax.lax.cumlogsumexp(scores, axis=1, reverse=True)
    return jnp.sum(left - scores, axis=1)


def correlation_congruence(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the products of neighbouring rows' absolute errors (CC).

    With ``delta = |student - teacher|``, the mean over consecutive rows of
    ``sum(delta_i * delta_(i + 1))``. Peng et al., "Correlation Congruence for Knowledge
    Distillation" (arXiv:1904.01802), in the form of the CIFAR benchmarks, which take
    cross-entropy + 0.02 times this, of linear maps to 128 features.

    Args:
      student: ``[batch, features]``, of two rows or more.
      teacher: ``[batch, features]``.

    Returns:
      A scalar: this loss couples the batch, and depends on its order.

    Raises:
      ValueError: if shapes differ or there is but one row.
    """
    check_same_shape(student, teacher)
    if len(student) < 2:
        raise ValueError(f"The batch has {len(student)} row, expected two or more.")
    delta = flat_rows(jnp.abs(student_side(student) - teacher_side(teacher)))
    return jnp.mean(jnp.sum(delta[:-1] * delta[1:], axis=-1))


def _check_form(form: str) -> str:
    if form not in ("direct", "gram"):
        raise ValueError(f"form is {form!r}, expected 'direct' or 'gram'.")
    return form


def _distances(x: jax.Array) -> jax.Array:
    """Computes distances between rows; no gradient flows between equal rows."""
    x = flat_rows(x)
    return _root(jnp.sum((x[None, :] - x[:, None]) ** 2, axis=-1))


def _root(square: jax.Array) -> jax.Array:
    """Takes roots; that of 0 is 0 and has no gradient."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _gram(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns products of the centred rows, and squared distances, 0 where close.

    Centred, because the rounding of a product grows with the length of the rows.
    """
    x = flat_rows(x)
    x = x - jnp.mean(x, axis=0)
    products = einsum("if,jf->ij", x, x)
    size = jnp.diagonal(products)
    both = size[:, None] + size[None, :]
    square = both - 2 * products
    apart = (square > _CLOSE * both) & ~jnp.eye(len(x), dtype=bool)
    return products, jnp.where(apart, square, 0)


def _gram_distances(x: jax.Array) -> jax.Array:
    """Divides distances by their mean over pairs of two rows, equal rows included."""
    distance = _root(_gram(x)[1])
    mean = jnp.sum(distance) / max(len(x) * (len(x) - 1), 1)
    return distance / jnp.where(mean > 0, mean, 1)


def _gram_cosines(x: jax.Array) -> jax.Array:
    """Computes the cosine at row i between rows j and k: ``[batch] * 3``."""
    products, square = _gram(x)
    apart = square > 0
    inverse = jnp.where(apart, jax.lax.rsqrt(jnp.where(apart, square, 1)), 0)
    own = jnp.diagonal(products)[:, None, None]
    inner = products[None] - products[:, :, None] - products[:, None, :] + own
    return inner * inverse[:, :, None] * inverse[:, None, :]


def _chunked(student: jax.Array, teacher: jax.Array, chunk: int) -> jax.Array:
    check_batches(student, teacher)
    rows = [flat_rows(x) for x in (student_side(student), teacher_side(teacher))]

    @jax.checkpoint
    def vertex(own: list[jax.Array]) -> jax.Array:
        seen = [unit(x - one) for x, one in zip(rows, own, strict=True)]
        s, t = (einsum("jf,kf->jk", u, u) for u in seen)
        return jnp.mean(optax.huber_loss(s, t))

    return jnp.mean(jax.lax.map(vertex, rows, batch_size=chunk))
