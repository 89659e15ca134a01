"""AT+: where a network looks for each class, at one resolution as at another.

Inter-resolution attention distillation (arXiv:2401.06010). See ``jaxkd.losses`` for the
shared conventions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import student_side, teacher_side
from jaxkd.losses.numerics import at_least_float32, check_same_shape, einsum


def linear_head_weights(kernel: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Computes the weights of channels of a pooled linear head, without derivatives.

    For logits ``mean(F) W`` the derivative by every pixel is ``W / (height width)``,
    so its spatial mean is that too: ``gradient_weights`` gives the same.

    Args:
      kernel: ``W``, ``[channels, classes]``.
      size: ``(height, width)`` of the map that is pooled.

    Returns:
      ``[1, classes, channels]``.
    """
    return (at_least_float32(kernel).T / (size[0] * size[1]))[None]


def gradient_weights(
    head: Callable[[jax.Array], jax.Array], features: jax.Array
) -> jax.Array:
    """Computes the weights of channels for any head, by differentiation.

    The spatial mean of the derivative of each class's logit by the map, as in Grad-CAM.
    It can be differentiated again.

    Args:
      head: ``[batch, height, width, channels] -> [batch, classes]``; examples must not
        depend on each other.
      features: ``[batch, height, width, channels]``.

    Returns:
      ``[batch, classes, channels]``.
    """
    logits, pullback = jax.vjp(head, features)
    classes = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    slopes = jax.vmap(lambda c: pullback(jnp.broadcast_to(c, logits.shape))[0])(classes)
    return jnp.moveaxis(jnp.mean(slopes, axis=(2, 3)), 0, 1)


def class_attention(features: jax.Array, weights: jax.Array) -> jax.Array:
    """Computes attention maps, ``A_c = sum_k max(w_ck F_k, 0)``.

    The rectifier acts on each channel *before* the sum (arXiv:2401.06010), unlike in
    Grad-CAM, so that a channel against a class cannot cancel one in favour of it.

    Args:
      features: ``F``, ``[batch, height, width, channels]``.
      weights: ``w``, ``[batch, classes, channels]``, or with 1 for the batch.

    Returns:
      ``[batch, height, width, classes]``, at least float32.
    """
    features, weights = at_least_float32(features), at_least_float32(weights)
    weights = jnp.broadcast_to(weights, (len(features), *weights.shape[1:]))
    # Split by sign: max(w F, 0) = max(w, 0) max(F, 0) + max(-w, 0) max(-F, 0).
    agree, oppose = (
        einsum("bck,bhwk->bhwc", jnp.maximum(w, 0), jnp.maximum(f, 0))
        for w, f in ((weights, features), (-weights, -features))
    )
    return agree + oppose


def scale_attention(attention: jax.Array) -> jax.Array:
    """Scales each example's maps to [0, 1], over all pixels and classes together.

    Flat maps become 0; the published code divides by zero there.

    Args:
      attention: ``[batch, height, width, classes]``.

    Returns:
      The same shape.
    """
    axes = (1, 2, 3)
    low = jnp.min(attention, axes, keepdims=True)
    high = jnp.max(attention, axes, keepdims=True)
    return (attention - low) / (high - low + 1e-8)


def attention_plus(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the root mean squared difference of scaled attention maps (AT+).

    Args:
      student: ``class_attention`` of the student, ``[batch, height, width, classes]``.
      teacher: the same of the teacher, of the same shape.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes differ.
    """
    check_same_shape(student, teacher)
    s, t = (
        scale_attention(student_side(student)),
        scale_attention(teacher_side(teacher)),
    )
    return _root(jnp.mean((s - t) ** 2, axis=(1, 2, 3)))


def root_mean_square(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the root of the mean squared difference over everything.

    The feature term of arXiv:2401.06010, on the last map before pooling.

    Args:
      student: ``[batch, ...]``.
      teacher: the same shape.

    Returns:
      A scalar: this loss couples the batch.

    Raises:
      ValueError: if shapes differ.
    """
    check_same_shape(student, teacher)
    return _root(jnp.mean((student_side(student) - teacher_side(teacher)) ** 2))


def _root(square: jax.Array) -> jax.Array:
    """Computes a square root whose gradient is 0, not infinite, at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
