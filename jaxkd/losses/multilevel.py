"""Multi-level logit distillation (MLKD): per example, per batch and per class.

Jin et al., "Multi-Level Logit Distillation" (CVPR 2023). Besides the probabilities of
each example (KD), the student matches how examples of a batch resemble each other and
how classes occur together, at several temperatures. These losses couple the batch;
see ``jaxkd.losses.relation`` on sharded batches and ``jaxkd.losses`` for the shared
conventions.

The official code computes two masks from the teacher, one of its less confident half
of the rows and one of its less confident half of the classes, but multiplies them with
losses that are already reduced to one number. There a mask is but a factor of about
one half. ``masked="official"`` reproduces that, with which the published numbers were
obtained; ``masked="per_sample"`` applies each mask along the axis it was made for.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import (
    Scalar,
    check_shapes,
    kl_divergence,
    student_side,
    teacher_side,
)
from jaxkd.losses.numerics import einsum

MASKED = ("official", "per_sample")
TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def mlkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    strong_student_logits: jax.Array,
    strong_teacher_logits: jax.Array,
    *,
    masked: str,
    temperatures: Sequence[float] = TEMPERATURES,
) -> jax.Array:
    """Computes multi-level logit distillation on a weak and a strong view.

    ``mlkd_noaug`` of the weak view, plus the sum over temperatures of unmasked KD of
    the strong view. The recipe is 0.1 times the cross-entropy of both views + 0.9
    times this.

    The official code computes the last two of its five temperatures of the strong
    view from the *weak* one; ``masked="official"`` includes that slip, from the fourth
    temperature on. It also computes the correlations of the strong view, and does not
    use them.

    Args:
      student_logits: ``[batch, classes]`` of the weak view.
      teacher_logits: likewise.
      strong_student_logits: ``[batch, classes]`` of the strong view.
      strong_teacher_logits: likewise.
      masked: how masks are applied, see ``mlkd_noaug``.
      temperatures: the official ones, in the official order.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit or ``masked`` is unknown.
    """
    weak = student_logits, teacher_logits
    strong = strong_student_logits, strong_teacher_logits
    _check(*strong, masked)
    first = 3 if masked == "official" else len(temperatures)
    loss = mlkd_noaug(*weak, masked=masked, temperatures=temperatures)
    for view, part in ((strong, temperatures[:first]), (weak, temperatures[first:])):
        if len(part) > 0:
            loss = loss + _summed(partial(_mean_kd, *view), part, loss.dtype)
    return loss


def mlkd_noaug(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    masked: str,
    temperatures: Sequence[float] = TEMPERATURES,
) -> jax.Array:
    """Computes multi-level logit distillation on one view.

    The sum over temperatures of KD, ``batch_correlation`` and ``class_correlation``,
    each averaged over rows or classes. The recipe is 0.1 times cross-entropy + 0.9
    times this.

    With ``masked="per_sample"``, KD and the correlation of examples count only rows in
    which the teacher's largest probability is at most its median over the batch, and
    the correlation of classes only classes whose probability, summed over the batch,
    is at most its median over classes. The others count as 0 in the averages. With
    ``masked="official"``, all count, and each average is multiplied by the share of
    rows or classes the mask would keep.

    Args:
      student_logits: ``[batch, classes]``.
      teacher_logits: likewise.
      masked: ``"official"`` or ``"per_sample"``.
      temperatures: the official ones.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit or ``masked`` is unknown.
    """
    _check(student_logits, teacher_logits, masked)
    rows, classes = _less_confident(teacher_side(teacher_logits))
    if masked == "official":
        rows, classes = jnp.mean(rows), jnp.mean(classes)
    logits = student_side(student_logits), teacher_side(teacher_logits)

    def loss(temperature):
        by_row = _kd(*logits, temperature)
        by_row = by_row + batch_correlation(*logits, temperature=temperature)
        by_class = class_correlation(*logits, temperature=temperature)
        return jnp.mean(rows * by_row) + jnp.mean(classes * by_class)

    return _summed(loss, temperatures, rows.dtype)


def batch_correlation(
    student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: Scalar
) -> jax.Array:
    """Compares how the examples of a batch resemble each other.

    With ``P = softmax(z / T)``, entry ``i`` is the squared length of row ``i`` of
    ``P_s P_s^T - P_t P_t^T``. Jin et al. (CVPR 2023), batch-level alignment: their
    loss is the mean over the batch.

    Args:
      student_logits: ``[batch, classes]``.
      teacher_logits: likewise.
      temperature: ``T``, positive.

    Returns:
      ``[batch]``, although every entry depends on the whole batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    s, t = _probabilities(student_logits, teacher_logits, temperature)
    difference = einsum("ic,jc->ij", s, s) - einsum("ic,jc->ij", t, t)
    return jnp.sum(difference**2, axis=1)


def class_correlation(
    student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: Scalar
) -> jax.Array:
    """Compares how classes occur together in a batch.

    With ``P = softmax(z / T)``, entry ``c`` is the squared length of row ``c`` of
    ``P_s^T P_s - P_t^T P_t``. Jin et al. (CVPR 2023), class-level alignment: their
    loss is the mean over classes. It is not divided by the batch, and grows with it.

    Args:
      student_logits: ``[batch, classes]``.
      teacher_logits: likewise.
      temperature: ``T``, positive.

    Returns:
      ``[classes]``: this loss couples the batch.

    Raises:
      ValueError: if shapes do not fit.
    """
    s, t = _probabilities(student_logits, teacher_logits, temperature)
    difference = einsum("ic,id->cd", s, s) - einsum("ic,id->cd", t, t)
    return jnp.sum(difference**2, axis=1)


def _summed(
    loss: Callable[[jax.Array], jax.Array], temperatures: Sequence[float], dtype
) -> jax.Array:
    """Adds a loss over temperatures, which are compiled once for all."""
    return jnp.sum(jax.vmap(loss)(jnp.asarray(temperatures, dtype)))


def _kd(student_logits, teacher_logits, temperature: Scalar) -> jax.Array:
    divergence = kl_divergence(
        teacher_side(teacher_logits) / temperature,
        student_side(student_logits) / temperature,
    )
    return temperature**2 * divergence


def _mean_kd(student_logits, teacher_logits, temperature: Scalar) -> jax.Array:
    return jnp.mean(_kd(student_logits, teacher_logits, temperature))


def _probabilities(student_logits, teacher_logits, temperature: Scalar):
    """Computes both networks' probabilities, ``[batch, classes]`` each."""
    _check_matrix(student_logits, teacher_logits)
    sides = student_side(student_logits), teacher_side(teacher_logits)
    return [jax.nn.softmax(z / temperature) for z in sides]


def _less_confident(teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Marks rows ``[batch]`` and classes ``[classes]`` of at most median confidence."""
    p = jax.nn.softmax(teacher)
    by_row, by_class = jnp.max(p, axis=1), jnp.sum(p, axis=0)
    rows, classes = by_row <= jnp.median(by_row), by_class <= jnp.median(by_class)
    return rows.astype(p.dtype), classes.astype(p.dtype)


def _check(student_logits, teacher_logits, masked: str) -> None:
    _check_matrix(student_logits, teacher_logits)
    if masked not in MASKED:
        raise ValueError(f"masked is {masked!r}, expected one of {', '.join(MASKED)}.")


def _check_matrix(student_logits, teacher_logits) -> None:
    check_shapes(student_logits, teacher_logits)
    if len(jnp.shape(student_logits)) != 2:
        raise ValueError(
            f"logits have shape {jnp.shape(student_logits)}, expected [batch, "
            "classes]: this loss relates the rows of one batch."
        )
