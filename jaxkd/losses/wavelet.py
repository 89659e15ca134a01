"""The Haar wavelet transform, and a loss between what it keeps of two feature maps.

See ``jaxkd.losses`` for the shared conventions.
"""

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import student_side, teacher_side
from jaxkd.losses.numerics import at_least_float32, check_maps, unit


def haar(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Computes one level of the orthonormal Haar transform of a map.

    Of each 2 x 2 block ``a b / c d``: ``LL = (a + b + c + d) / 2``, ``LH`` is the
    difference across, ``(a - b + c - d) / 2``, ``HL`` that down,
    ``(a + b - c - d) / 2``, and ``HH = (a - b - c + d) / 2``.

    Args:
      x: ``[..., height, width, channels]``, of even height and width.

    Returns:
      ``LL, LH, HL, HH``, each ``[..., height / 2, width / 2, channels]``.

    Raises:
      ValueError: if a side is odd.
    """
    shape = jnp.shape(x)
    if len(shape) < 3 or shape[-3] % 2 or shape[-2] % 2:
        raise ValueError(
            f"x has shape {shape}, expected [..., height, width, channels] of even "
            "sides. Choose an image size that halves at every stage, or pad."
        )
    a, b = x[..., ::2, ::2, :], x[..., ::2, 1::2, :]
    c, d = x[..., 1::2, ::2, :], x[..., 1::2, 1::2, :]
    return (
        (a + b + c + d) / 2,
        (a - b + c - d) / 2,
        (a + b - c - d) / 2,
        (a - b - c + d) / 2,
    )


def inverse_haar(
    ll: jax.Array, lh: jax.Array, hl: jax.Array, hh: jax.Array
) -> jax.Array:
    """Inverts ``haar``.

    Args:
      ll: ``[..., height, width, channels]``, as the others.
      lh: likewise.
      hl: likewise.
      hh: likewise.

    Returns:
      ``[..., 2 height, 2 width, channels]``.
    """
    upper = jnp.stack([(ll + lh + hl + hh) / 2, (ll - lh + hl - hh) / 2], axis=-2)
    lower = jnp.stack([(ll + lh - hl - hh) / 2, (ll - lh - hl + hh) / 2], axis=-2)
    *outer, height, width, channels = ll.shape
    both = jnp.stack([upper, lower], axis=-4)  # [..., h, 2, w, 2, c]
    return both.reshape(*outer, 2 * height, 2 * width, channels)


def wavelet_similarity(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes one minus the cosine of what two maps keep of low frequencies.

    ``1 - cos(LL(student), LL(teacher))`` over all positions and channels of the ``LL``
    part of ``haar``. Made after Lu and Ebrahimi, "Cross-resolution Face Recognition via
    Identity-Preserving Network and Knowledge Distillation" (arXiv:2303.08665), whose
    exact formula we do not know.

    Args:
      student: ``[batch, height, width, channels]``, of even height and width.
      teacher: the same shape.

    Returns:
      ``[batch]``, from 0 to 2; 1 where a map is zero.

    Raises:
      ValueError: if shapes differ or a side is odd.
    """
    check_maps(student, teacher, same_channels=True)
    if jnp.shape(student) != jnp.shape(teacher):
        raise ValueError(
            f"student has shape {jnp.shape(student)} and teacher {jnp.shape(teacher)}, "
            "expected equal. Enlarge the student's images to the teacher's size."
        )
    low = (haar(student_side(student))[0], haar(teacher_side(teacher))[0])
    s, t = (unit(at_least_float32(x).reshape(x.shape[0], -1)) for x in low)
    return 1 - jnp.sum(s * t, axis=-1)
