"""Losses that part the target class from the others: decoupled and refined KD.

Knowledge distillation decoupled into a target-class and a non-target-class part (DKD),
and refined logit distillation (RLD), which keeps a teacher's mistakes out of both. See
``jaxkd.losses`` for the conventions all of them share.
"""

import warnings
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import (
    Scalar,
    binary_split,
    check_shapes,
    drop_rows,
    kl_divergence,
    label_side,
    one_hot,
    pick,
    reject_labels,
    student_side,
    teacher_side,
    weighted_sum,
)

MASKS = ("ge", "g", "gt_only")


def dkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar,
    beta: Scalar,
    temperature: Scalar,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes decoupled knowledge distillation.

    ``alpha * target_class_kd + beta * non_target_class_kd``. Zhao et al., "Decoupled
    Knowledge Distillation" (arXiv:2203.08679, equation 7). The paper's ``alpha`` is 1;
    ``beta`` is 2 to 8, by pair of networks.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      alpha: weight of the target-class part. A part whose weight is the Python or
        NumPy number 0 is not computed.
      beta: weight of the non-target-class part, likewise.
      temperature: positive.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_shapes(student_logits, teacher_logits, labels, where)
    inputs = (student_logits, teacher_logits, labels)
    target = partial(target_class_kd, *inputs, temperature=temperature, where=where)
    non_target = partial(
        non_target_class_kd, *inputs, temperature=temperature, where=where
    )
    return weighted_sum(student_logits, (alpha, target), (beta, non_target))


def target_class_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Scalar,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the target-class part of DKD (TCKD).

    ``T^2 KL(b_t || b_s)`` with ``b = (p_y, sum of p_c over c != y)`` and
    ``p = softmax(z / T)`` (arXiv:2203.08679, equation 5). Its gradient never exceeds
    ``T``. The official code takes the logarithm of ``p``, which is infinite once a
    probability underflows; here it is not.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      temperature: ``T``, positive.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    return _binary_kd(
        student_logits,
        teacher_logits,
        labels,
        temperature,
        where,
        lambda teacher, labels: labels,
    )


def _binary_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: Scalar,
    where: jax.Array | None,
    teachers_class: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Compares one class against all others: a class of the teacher's, and the label.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``, the student's class.
      temperature: positive.
      where: ``[...]``, False for rows to leave out.
      teachers_class: of the teacher's logits and the labels, the teacher's class.
    """
    check_shapes(student_logits, teacher_logits, labels, where)
    student = student_side(student_logits, where) / temperature
    teacher = teacher_side(teacher_logits, where) / temperature
    labels, classes = label_side(labels, where), student.shape[-1]
    divergence = kl_divergence(
        binary_split(teacher, one_hot(teachers_class(teacher, labels), classes)),
        binary_split(student, one_hot(labels, classes)),
    )
    divergence = reject_labels(divergence, labels, classes)
    return temperature**2 * drop_rows(divergence, where)


def non_target_class_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Scalar,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the non-target-class part of DKD (NCKD).

    ``T^2 KL(p_t || p_s)`` with ``p`` the softmax of ``z / T`` over all classes but the
    label (arXiv:2203.08679, equation 5). The official code excludes the label by
    subtracting 1000 from its logit, which brings it back for very large logits; here
    it is truly excluded. With two classes there is nothing to compare: the loss is 0.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      temperature: ``T``, positive.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    return masked_correlation(
        student_logits,
        teacher_logits,
        labels,
        temperature=temperature,
        mask="gt_only",
        where=where,
    )


def rld(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar,
    beta: Scalar,
    temperature: Scalar,
    alpha_temperature: Scalar | None = None,
    mask: str = "ge",
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes refined logit distillation.

    ``alpha * sample_confidence + beta * masked_correlation``. Sun et al., "Knowledge
    Distillation with Refined Logits" (arXiv:2408.07703). Where the teacher's strict
    maximum is the label, and one temperature serves both parts, this equals ``dkd``.

    The paper has one temperature. The official code has a second for the first part
    and sets it to 1 unless asked otherwise; pass ``alpha_temperature=1`` for that. Its
    other defaults are ``alpha`` 1, ``beta`` 8 and temperature 4; the best weights
    depend on the pair of networks.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``, best in the precision they were computed in:
        rounding them creates ties, and a tie with the label is masked.
      labels: integers ``[...]``.
      alpha: weight of the confidence part. A part whose weight is the Python or NumPy
        number 0 is not computed.
      beta: weight of the correlation part, likewise.
      temperature: positive.
      alpha_temperature: temperature of the confidence part; None means
        ``temperature``.
      mask: which classes the correlation part leaves out, see ``masked_correlation``.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit or ``mask`` is unknown.
    """
    check_shapes(student_logits, teacher_logits, labels, where)
    _check_mask(mask)
    if alpha_temperature is None:
        alpha_temperature = temperature
    inputs = (student_logits, teacher_logits, labels)
    confidence = partial(
        sample_confidence, *inputs, temperature=alpha_temperature, where=where
    )
    correlation = partial(
        masked_correlation, *inputs, temperature=temperature, mask=mask, where=where
    )
    return weighted_sum(student_logits, (alpha, confidence), (beta, correlation))


def sample_confidence(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Scalar,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the sample-confidence part of RLD (SCD).

    ``T^2 KL((a, 1 - a) || (q, 1 - q))``, where ``a`` is the teacher's largest
    probability, *whichever class it belongs to*, and ``q`` the student's probability
    of the label, both at temperature ``T`` (arXiv:2408.07703). The student learns how
    sure the teacher is, not what it is sure of. Per row, the gradient is ``T (q - a)``
    for the label, and ``T (a - q)`` shared among the other classes in proportion to
    their student probabilities; it never exceeds ``T``.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      temperature: ``T``, positive.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    return _binary_kd(
        student_logits,
        teacher_logits,
        labels,
        temperature,
        where,
        lambda teacher, labels: jnp.argmax(teacher, axis=-1),
    )


def masked_correlation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Scalar,
    mask: str = "ge",
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the masked-correlation part of RLD (MCD).

    ``T^2 KL(p_t || p_s)`` with ``p`` the softmax of ``z / T`` over the classes that
    are left when the masked ones are excluded from both sides (arXiv:2408.07703).
    What the teacher wrongly ranks above the label is thus not passed on. Masked
    classes get no gradient. A row with fewer than two classes left gives 0, and is
    still a row of the batch mean; with two classes that is every row, and a warning.

    The mask comes from the teacher's logits as they are given, before any division
    by the temperature, since rounding would create ties with the label.

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      labels: integers ``[...]``.
      temperature: ``T``, positive.
      mask: which classes to leave out. ``"ge"`` (the paper's choice): those whose
        teacher logit is at least the label's, and so the label itself and ties.
        ``"g"``: those strictly above the label's, which leaves the label in.
        ``"gt_only"``: the label alone, which is DKD's part.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit or ``mask`` is unknown.
    """
    check_shapes(student_logits, teacher_logits, labels, where)
    student = student_side(student_logits, where)
    teacher = teacher_side(teacher_logits, where)
    if student.shape[-1] == 2 and mask != "g":
        warnings.warn(
            "Of two classes one is left beside the label: masked correlation, and with "
            "it DKD's non-target part, is 0 throughout. Use kd, or alpha alone.",
            stacklevel=2,
        )
    labels = label_side(labels, where)
    divergence = kl_divergence(
        teacher / temperature,
        student / temperature,
        keep=~_masked_classes(teacher, labels, mask),
    )
    divergence = reject_labels(divergence, labels, student.shape[-1])
    return temperature**2 * drop_rows(divergence, where)


def _masked_classes(teacher: jax.Array, labels: jax.Array, mask: str) -> jax.Array:
    """Marks the classes to leave out, boolean ``[..., classes]``."""
    _check_mask(mask)
    label = one_hot(labels, teacher.shape[-1])
    if mask == "gt_only":
        return label
    label_logit = pick(teacher, label)[..., None]
    # Compilers may compute the label's logit twice and round it otherwise, so that a
    # standardized one need not equal itself.
    if mask == "ge":
        return (teacher >= label_logit) | label
    return (teacher > label_logit) & ~label


def _check_mask(mask: str) -> None:
    if mask not in MASKS:
        raise ValueError(f"mask is {mask!r}, expected one of {', '.join(MASKS)}.")
