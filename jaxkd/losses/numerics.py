"""Numerics shared by the losses: checks, casts, products and directions.

The length of a vector has no derivative at zero, and automatic differentiation turns
that into NaN even where a mask discards the result. Zero vectors do occur: features
behind a ReLU that no input excites, two equal rows of a batch, and the distance of a
row to itself, in every step. Here the length of a zero vector is 0 with gradient 0,
and its direction is the zero vector, with gradient 0.
"""

import jax
import jax.numpy as jnp


def check_same_shape(student, teacher) -> None:
    """Raises ValueError unless both arrays are ``[batch, ...]`` of one shape."""
    got, wanted = jnp.shape(student), jnp.shape(teacher)
    if len(got) < 2 or got != wanted:
        raise ValueError(
            f"student has shape {got} and teacher {wanted}, expected [batch, ...] and "
            "equal. Map the student's features to the teacher's shape first."
        )


def check_batches(student, teacher) -> None:
    """Raises ValueError unless both are ``[batch, ...]`` with one number of rows."""
    got, wanted = jnp.shape(student), jnp.shape(teacher)
    if min(len(got), len(wanted)) < 2 or got[0] != wanted[0]:
        raise ValueError(
            f"student has shape {got} and teacher {wanted}, expected [batch, ...] for "
            "both, with the same batch."
        )


def check_maps(student, teacher, *, same_channels: bool) -> None:
    """Raises ValueError unless both are ``[batch, height, width, channels]``."""
    got, wanted = jnp.shape(student), jnp.shape(teacher)
    if len(got) != 4 or len(wanted) != 4 or got[0] != wanted[0]:
        raise ValueError(
            f"student has shape {got} and teacher {wanted}, expected [batch, height, "
            "width, channels] for both, with the same batch. Reshape pooled features "
            "to [batch, 1, 1, channels]."
        )
    if same_channels and got[-1] != wanted[-1]:
        raise ValueError(
            f"student has {got[-1]} channels and teacher {wanted[-1]}, expected as "
            "many. Map the student's features to the teacher's channels first."
        )


def at_least_float32(x) -> jax.Array:
    """Casts to float32, or leaves a wider floating type as it is."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def einsum(pattern: str, *arrays: jax.Array) -> jax.Array:
    """Multiplies in full precision, which accelerators do not do by default.

    These losses are differences of products that nearly agree.
    """
    return jnp.einsum(pattern, *arrays, precision=jax.lax.Precision.HIGHEST)


def flat_rows(x: jax.Array) -> jax.Array:
    """Reshapes ``[batch, ...]`` to ``[batch, features]``."""
    return x.reshape(x.shape[0], -1)


def length(x: jax.Array, axis: int = -1) -> jax.Array:
    """Computes Euclidean lengths along an axis, which is kept with size 1."""
    square = jnp.sum(x**2, axis=axis, keepdims=True)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Scales vectors along an axis to length 1.

    Those no longer than 1e-12 become zero and get no gradient. PyTorch divides them
    by 1e-12 instead, which gives a zero vector a gradient 1e12 times too large.
    """
    size = length(x, axis)
    usable = size > 1e-12
    return jnp.where(usable, x / jnp.where(usable, size, 1), 0)
