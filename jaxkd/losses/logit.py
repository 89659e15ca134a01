"""Losses between the logits of a student and of its teacher, or its labels.

Knowledge distillation (KD), cross-entropy, and what is done to logits before them. See
``jaxkd.losses`` for the conventions all of them share.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxkd.losses._masked import (
    Scalar,
    check_shapes,
    drop_rows,
    kl_divergence,
    label_side,
    one_hot,
    reject_labels,
    student_side,
    teacher_side,
)
from jaxkd.losses.numerics import at_least_float32


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
