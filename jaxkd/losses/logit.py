"""Losses between the logits of a student and of its teacher.

Knowledge distillation (KD), its decoupling into a target-class and a non-target-class
part (DKD), and refined logit distillation (RLD), which keeps a teacher's mistakes out
of both parts. See ``jaxkd.losses`` for the conventions all of them share.
"""

import warnings
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax

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
from jaxkd.losses.numerics import at_least_float32

MASKS = ("ge", "g", "gt_only")


def kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: Scalar,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes Hinton's distillation loss.

    ``T^2 KL(softmax(t / T) || softmax(s / T))`` for student logits ``s`` and teacher
    logits ``t``; the factor keeps gradients comparable across temperatures. Hinton et
    al., "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531, section 2).

    Args:
      student_logits: ``[..., classes]``.
      teacher_logits: ``[..., classes]``.
      temperature: ``T``, positive.
      where: ``[...]``, False for rows to leave out.

    Returns:
      ``[...]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_shapes(student_logits, teacher_logits, where=where)
    divergence = kl_divergence(
        teacher_side(teacher_logits, where) / temperature,
        student_side(student_logits, where) / temperature,
    )
    return temperature**2 * drop_rows(divergence, where)


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the cross entropy with integer labels.

    ``-sum_c y_c log softmax(z)_c`` with ``y = (1 - e) onehot(label) + e / classes`` and
    ``e`` the smoothing. A label that is none of the classes makes its row NaN, also a
    negative one, which optax counts from the last class.

    Args:
      logits: ``[..., classes]``.
      labels: integers ``[...]``.
      label_smoothing: probability mass spread evenly over all classes, from 0 to 1.
      where: ``[...]``, False for rows to leave out, such as the pixels of a map that
        nobody labelled.

    Returns:
      ``[...]``, at least float32.

    Raises:
      ValueError: if shapes do not fit.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([1, 255])
    >>> loss = cross_entropy(jnp.zeros((2, 4)), labels, where=labels < 255)
    >>> [round(float(x), 4) for x in loss]
    [1.3863, 0.0]
    """
    check_shapes(logits, labels=labels, where=where)
    z, labels = student_side(logits, where), label_side(labels, where)
    if isinstance(label_smoothing, int | float) and label_smoothing == 0:
        loss = optax.softmax_cross_entropy_with_integer_labels(z, labels)
    else:
        hot = one_hot(labels, z.shape[-1]).astype(z.dtype)
        loss = optax.softmax_cross_entropy(z, optax.smooth_labels(hot, label_smoothing))
    return drop_rows(reject_labels(loss, labels, z.shape[-1]), where)


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
    check_shapes(student_logits, teacher_logits, labels, where)
    student = student_side(student_logits, where) / temperature
    teacher = teacher_side(teacher_logits, where) / temperature
    labels, classes = label_side(labels, where), student.shape[-1]
    label = one_hot(labels, classes)
    divergence = kl_divergence(
        binary_split(teacher, label), binary_split(student, label)
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
    check_shapes(student_logits, teacher_logits, labels, where)
    student = student_side(student_logits, where) / temperature
    teacher = teacher_side(teacher_logits, where) / temperature
    labels, classes = label_side(labels, where), student.shape[-1]
    top = one_hot(jnp.argmax(teacher, axis=-1), classes)
    divergence = kl_divergence(
        binary_split(teacher, top),
        binary_split(student, one_hot(labels, classes)),
    )
    divergence = reject_labels(divergence, labels, classes)
    return temperature**2 * drop_rows(divergence, where)


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


def standardize(logits: jax.Array) -> jax.Array:
    """Standardizes each row of logits to mean 0 and standard deviation 1.

    ``(z - mean) / (1e-7 + std)``, with the standard deviation over classes that
    divides by ``classes - 1``. Applied to student and teacher before a logit loss, it
    frees the student from matching the teacher's scale. Sun et al., "Logit
    Standardization in Knowledge Distillation" (arXiv:2403.01427). A row of equal
    logits gives exactly 0 with a finite gradient.

    Args:
      logits: ``[..., classes]``.

    Returns:
      ``[..., classes]``, at least float32.

    Raises:
      ValueError: if there are fewer than two classes.
    """
    check_shapes(logits)
    z = at_least_float32(logits)
    # The shift changes nothing but rounding: equal logits of any size become 0.
    z = z - jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))
    centered = z - jnp.mean(z, axis=-1, keepdims=True)
    variance = jnp.sum(centered**2, axis=-1, keepdims=True) / (z.shape[-1] - 1)
    # The square root has no derivative at 0: take it of 1 there, and use 0 instead.
    positive = variance > 0
    std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
    return centered / (1e-7 + std)


def combine_logits(
    logits: Sequence[jax.Array], weights: Sequence[float], *, combine: str = "logits"
) -> jax.Array:
    """Combines the logits of several teachers into those of one.

    ``sum_k w_k z_k``, or ``log sum_k w_k softmax(z_k)``, with weights that are divided
    by their sum. The first is the normalised geometric mean of the probabilities, the
    second their arithmetic mean, which one sure teacher decides less. You et al.,
    "Learning from Multiple Teacher Networks" (KDD 2017), averages probabilities.

    Args:
      logits: of each teacher, ``[..., classes]``.
      weights: of each teacher, positive.
      combine: ``"logits"`` or ``"probabilities"``.

    Returns:
      ``[..., classes]``, at least float32.

    Raises:
      ValueError: if there are not as many weights as teachers, one is not positive, or
        ``combine`` is unknown.

    >>> a, b = jnp.array([2.0, 0.0]), jnp.array([0.0, 0.0])
    >>> combine_logits([a, b], [1, 3]).tolist()
    [0.5, 0.0]
    """
    if len(weights) != len(logits) or not logits or min(weights) <= 0:
        raise ValueError(
            f"{len(logits)} teachers with the weights {list(weights)}; expected a "
            "positive weight for each."
        )
    if combine not in ("logits", "probabilities"):
        raise ValueError(
            f"combine is {combine!r}, expected 'logits' or 'probabilities'."
        )
    shares = jnp.asarray(weights, jnp.float32) / sum(weights)
    stacked = at_least_float32(jnp.stack(logits, axis=-1))
    if combine == "logits":
        return jnp.sum(shares * stacked, axis=-1)
    logs = jax.nn.log_softmax(stacked, axis=-2) + jnp.log(shares)
    return jax.nn.logsumexp(logs, axis=-1)


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
