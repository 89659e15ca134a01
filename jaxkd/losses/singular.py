"""Distillation of how singular vectors change from layer to layer (KDSVD).

Lee et al., "Self-supervised Knowledge Distillation Using Singular Value Decomposition"
(arXiv:1807.06819), in the form the distillation benchmarks gave it. See
``jaxkd.losses`` for the conventions all losses share.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import student_side, teacher_side
from jaxkd.losses.numerics import check_maps, einsum, unit

# A gap between eigenvalues below this share of the largest one is rounding error.
SMALLEST_GAP = 1e-6


def kdsvd(
    students: Sequence[jax.Array], teachers: Sequence[jax.Array], *, rank: int = 1
) -> jax.Array:
    """Computes the distance between the layer-to-layer correlations of two networks.

    A map is read as a matrix whose columns are its positions along the width and whose
    rows are its channels and heights. Kept are the teacher's first ``rank`` right
    singular vectors, and for each of them the student's vector, among the first
    ``rank + 3``, of largest absolute cosine, turned to the same side. Both are
    multiplied by the teacher's singular values, scaled to length 1 over those kept.
    Entries ``a`` of one layer and ``b`` of the layer before, of equal rank, correlate
    by ``exp(-(a - b)^2 / 8)``; the loss is the sum of squared differences of all of
    these between student and teacher. The benchmarks take cross-entropy + this.

    The sign of a singular vector is arbitrary, and the correlation of two layers
    depends on it. Here the teacher's vectors are turned to a sum that is not negative,
    where the benchmark code leaves the choice to the decomposition.

    Singular vectors have no derivative where singular values meet. The part of the
    gradient that turns two vectors into each other is left out where their squared
    singular values differ by less than 1e-6 of the largest, so gradients are finite.

    Args:
      students: maps ``[batch, height, width, channels]``, from shallow to deep, at
        least two.
      teachers: as many, each of its student's width, with any height and channels.
      rank: number of the teacher's vectors, ``k``.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    _check_layers(students, teachers, rank)
    pairs = zip(students, teachers, strict=True)
    aligned = [_aligned(student_side(s), teacher_side(t), rank) for s, t in pairs]
    terms = []
    for (s, t), (s_before, t_before) in zip(aligned[1:], aligned[:-1], strict=True):
        difference = _correlation(s, s_before) - _correlation(t, t_before)
        terms.append(jnp.sum(difference**2, axis=(1, 2, 3)))
    return sum(terms[1:], terms[0])


def _aligned(student, teacher, rank: int) -> tuple[jax.Array, jax.Array]:
    """Computes comparable vectors of both networks, each ``[batch, width, rank]``."""
    values, wanted = _singular(teacher, rank)
    total = jnp.sum(wanted, axis=1, keepdims=True)
    wanted = wanted * jnp.where(total < 0, -1, 1)
    _, offered = _singular(student, rank + 3)

    cosine = einsum("nwi,nwj->nij", offered, wanted)
    closest = jnp.argmax(jnp.abs(cosine), axis=1)[:, None]
    side = jnp.sign(jnp.take_along_axis(cosine, closest, axis=1))
    chosen = jnp.take_along_axis(offered, closest, axis=2) * side
    scale = unit(values)[:, None]
    return chosen * scale, wanted * scale


def _singular(x: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Computes leading singular values and right vectors of maps.

    Both come from the product of the matrix with itself, ``[width, width]``, in which
    the order of its rows, and so the memory layout of the map, plays no part.

    Returns:
      ``[batch, rank]`` and ``[batch, width, rank]``, largest first.
    """
    # The vectors do not change with scale: keep the squares far from overflow.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(1, 2, 3), keepdims=True))
    scale = jnp.where(largest > 0, largest, 1)
    x = x / scale
    squares, vectors = _eigenvectors(einsum("nhwc,nhvc->nwv", x, x))
    squares, vectors = squares[:, ::-1][:, :rank], vectors[:, :, ::-1][:, :, :rank]
    # Values are the teacher's alone, which is not differentiated.
    values = jnp.sqrt(jnp.maximum(jax.lax.stop_gradient(squares), 0))
    return values * scale[:, 0, 0], vectors


@jax.custom_jvp
def _eigenvectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Decomposes symmetric matrices: ascending eigenvalues, eigenvectors as columns."""
    # On CPU a batch of decompositions waits for threads of the pool that it runs on:
    # where as many run at a time as there are threads, such as on two devices of two
    # cores, they wait for ever. One at a time waits for nothing, and is as fast.
    return jax.lax.platform_dependent(
        matrix, cpu=lambda each: jax.lax.map(_decompose, each), default=_decompose
    )


def _decompose(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@_eigenvectors.defjvp
def _eigenvectors_jvp(primals, tangents):
    """Differentiates by perturbation theory, leaving out gaps that are rounding."""
    values, vectors = _eigenvectors(*primals)
    change = einsum("nwi,nwv,nvj->nij", vectors, tangents[0], vectors)
    gap = values[:, None, :] - values[:, :, None]
    largest = jnp.max(jnp.abs(values), axis=1)[:, None, None]
    apart = jnp.abs(gap) > SMALLEST_GAP * largest
    turn = jnp.where(apart, change / jnp.where(apart, gap, 1), 0)
    d_values = jnp.diagonal(change, axis1=1, axis2=2)
    return (values, vectors), (d_values, einsum("nwi,nij->nwj", vectors, turn))


def _correlation(vectors: jax.Array, before: jax.Array) -> jax.Array:
    """Correlates all entries of equal rank: ``[batch, width, width before, rank]``."""
    return jnp.exp(-((vectors[:, :, None] - before[:, None]) ** 2) / 8)


def _check_layers(students, teachers, rank: int) -> None:
    if len(students) != len(teachers) or len(students) < 2 or rank < 1:
        raise ValueError(
            f"{len(students)} student and {len(teachers)} teacher maps of rank {rank} "
            "given, expected as many of both, at least two, and a positive rank."
        )
    for student, teacher in zip(students, teachers, strict=True):
        check_maps(student, teacher, same_channels=False)
        widths = jnp.shape(student)[2], jnp.shape(teacher)[2]
        if widths[0] != widths[1] or widths[0] < rank:
            raise ValueError(
                f"student map has width {widths[0]} and teacher map {widths[1]}, "
                f"expected equal and at least the rank, {rank}. Pool the larger first, "
                "see adaptive_average_pool."
            )
