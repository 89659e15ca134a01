"""Numerics shared by the logit losses: divergences that stay finite under masks.

Published implementations push classes out of a softmax by adding a large constant.
That overflows in half precision, leaks the class back when logits are large, and
turns a row whose classes are all excluded into a division by zero. Here a class is
excluded by a logit of minus infinity, and a row with no class left is replaced by
zeros before the softmax, so neither its value nor its gradient is ever undefined.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.losses.numerics import at_least_float32

Scalar = float | jax.Array


def check_shapes(logits, teacher_logits=None, labels=None, where=None) -> None:
    """Raises ValueError unless all arrays describe the same rows and classes."""
    shape = jnp.shape(logits)
    if not shape or shape[-1] < 2:
        raise ValueError(
            f"logits have shape {shape}, expected [..., classes] with at least two "
            "classes. For a single sigmoid output z, pass the two logits [0, z]."
        )
    wanted = {
        "teacher_logits": (teacher_logits, shape),
        "labels": (labels, shape[:-1]),
        "where": (where, shape[:-1]),
    }
    for name, (array, expected) in wanted.items():
        if array is not None and jnp.shape(array) != expected:
            raise ValueError(
                f"{name} has shape {jnp.shape(array)}, expected {expected} to go with "
                f"logits of shape {shape}."
            )


def student_side(logits, where=None) -> jax.Array:
    """Prepares logits: at least float32, and zeros in the rows left out.

    Zeros go in *before* any computation, because the gradient of an undefined value
    stays undefined however it is masked afterwards.
    """
    logits = at_least_float32(logits)
    if where is None:
        return logits
    return jnp.where(jnp.asarray(where)[..., None], logits, 0)


def teacher_side(logits, where=None) -> jax.Array:
    """Prepares logits that are not differentiated."""
    return jax.lax.stop_gradient(student_side(logits, where))


def label_side(labels, where=None) -> jax.Array:
    """Prepares labels: 0 in the rows left out, whatever number stands there."""
    labels = jnp.asarray(labels)
    return labels if where is None else jnp.where(jnp.asarray(where), labels, 0)


def reject_labels(loss: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Makes rows NaN whose label is none of the classes, and their gradient too.

    Values are unknown inside ``jit``, so that nothing can be raised; but a loss that is
    not finite stops a run, and one of a class that is not there would not.

    Args:
      loss: ``[...]`` or ``[..., classes]``.
      labels: ``[...]``; 0 where another mask leaves a row out later, since the gradient
        of what is NaN stays NaN however it is masked afterwards.
      num_classes: labels are from 0 to ``num_classes - 1``.
    """
    known = (labels >= 0) & (labels <= num_classes - 1)
    factor = jnp.where(known, 1, jnp.nan).astype(loss.dtype)
    return loss * factor.reshape(factor.shape + (1,) * (loss.ndim - factor.ndim))


def drop_rows(loss: jax.Array, where=None) -> jax.Array:
    """Sets the rows left out to exactly zero."""
    return loss if where is None else jnp.where(where, loss, 0)


def one_hot(index, num_classes: int) -> jax.Array:
    """Marks one class per row: boolean ``[..., classes]`` from integers ``[...]``."""
    return jnp.asarray(index)[..., None] == jnp.arange(num_classes)


def pick(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Reads the chosen entry of each row, given as a one-hot boolean."""
    return jnp.sum(jnp.where(chosen, values, 0), axis=-1)


def kl_divergence(teacher: jax.Array, student: jax.Array, keep=None) -> jax.Array:
    """Computes ``KL(softmax(teacher) || softmax(student))`` over the kept classes.

    Args:
      teacher: logits ``[..., classes]``.
      student: logits ``[..., classes]``.
      keep: boolean ``[..., classes]``; None keeps all. A row that keeps no class, or
        only one, has divergence exactly 0 and no gradient.

    Returns:
      ``[...]``, in nats.
    """
    if keep is not None:
        fill = jnp.where(jnp.any(keep, axis=-1, keepdims=True), -jnp.inf, 0)
        teacher, student = (jnp.where(keep, z, fill) for z in (teacher, student))
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    p = jnp.exp(log_p)
    # Where p is 0 its term is 0, and both logarithms may be minus infinity.
    log_p, log_q = (jnp.where(p == 0, 0, z) for z in (log_p, log_q))
    return jnp.sum(p * (log_p - log_q), axis=-1)


def binary_split(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """Pools all classes but one: logits ``[..., 2]`` of (chosen, all others).

    The others' logit is the log of their summed exponentials, so a softmax over the
    pair gives the chosen class's probability and the *sum* of the rest. Neither is
    ever formed before its logarithm, which therefore stays finite.
    """
    others = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
    return jnp.stack([pick(logits, chosen), others], axis=-1)


def weighted_sum(logits, *terms: tuple[Scalar, Callable[[], jax.Array]]) -> jax.Array:
    """Adds weighted terms, one value per row, leaving out those of weight zero.

    A weight is known to be zero when it is a Python or NumPy number; its term is then
    never computed, so that one which is infinite cannot turn the sum into NaN.
    """
    total = jnp.zeros_like(at_least_float32(logits)[..., 0])
    for weight, term in terms:
        if not (isinstance(weight, int | float | np.number) and weight == 0):
            total = total + weight * term()
    return total
