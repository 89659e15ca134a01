"""Losses that learn an embedding: a margin between classes, or between triplets.

See ``jaxkd.losses`` for the shared conventions.
"""

import math

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import one_hot
from jaxkd.losses.logit import cross_entropy
from jaxkd.losses.numerics import at_least_float32, einsum, flat_rows, unit


def arcface(
    cosines: jax.Array, labels: jax.Array, *, margin: float = 0.5, scale: float = 64.0
) -> jax.Array:
    """Computes cross entropy with an angular margin on the label's class (ArcFace).

    The label's cosine ``cos t`` becomes ``cos(t + margin)``, all are multiplied by
    ``scale``, and cross entropy follows. Deng et al., "ArcFace: Additive Angular Margin
    Loss for Deep Face Recognition" (arXiv:1801.07698, equation 3). Beyond
    ``t = pi - margin``, where the margin would make the loss fall again,
    ``cos t - margin sin(margin)`` takes over, as in the public code.

    Args:
      cosines: ``[batch, classes]``, between embeddings and the classes' directions.
      labels: integers ``[batch]``; one that is no class makes its row NaN.
      margin: in radians, from 0 (a scaled softmax) to below pi / 2.
      scale: positive.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit, or the margin or scale is out of its range.
    """
    if jnp.ndim(cosines) != 2 or jnp.shape(labels) != jnp.shape(cosines)[:1]:
        raise ValueError(
            f"cosines have shape {jnp.shape(cosines)} and labels {jnp.shape(labels)}, "
            "expected [batch, classes] and [batch]."
        )
    if not (0 <= margin < math.pi / 2 and scale > 0):
        raise ValueError(
            f"margin is {margin} and scale {scale}, expected a margin from 0 to below "
            "pi / 2, and a positive scale."
        )
    c = jnp.clip(at_least_float32(cosines), -1, 1)
    # At t = 0 the sine has no derivative: its square stops at what float32 resolves.
    sine = jnp.sqrt(jnp.maximum(1 - c**2, 1e-7))
    beyond = c - margin * math.sin(margin)
    moved = c * math.cos(margin) - sine * math.sin(margin)
    moved = jnp.where(c > -math.cos(margin), moved, beyond)
    logits = scale * jnp.where(one_hot(labels, c.shape[-1]), moved, c)
    return cross_entropy(logits, labels)


def distance_weighted_triplet(
    embeddings: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    margin: float = 0.2,
    cutoff: float = 0.5,
    upper_cutoff: float = 1.4,
) -> jax.Array:
    """Computes the triplet loss with distance-weighted negatives.

    Embeddings are scaled to length 1. For every ordered pair of two rows of one label a
    row of another label is drawn, with a probability in inverse proportion to how many
    points of a sphere have its distance, and the loss is the mean over those pairs of
    ``max(d(anchor, positive) - d(anchor, negative) + margin, 0)``. Wu et al., "Sampling
    Matters in Deep Embedding Learning" (arXiv:1706.07567, section 3.2); the values are
    those of the public code of RKD (arXiv:1904.05068).

    Args:
      embeddings: ``[batch, ...]``, flattened to rows.
      labels: integers ``[batch]``.
      key: of the draws.
      margin: in distance.
      cutoff: smaller distances count as this one, which bounds the probabilities.
      upper_cutoff: rows farther away are drawn only where there is no other.

    Returns:
      A scalar: this loss couples the batch. 0 where no row has both a partner of its
      label and a row of another.

    Raises:
      ValueError: if shapes do not fit.
    """
    rows = unit(flat_rows(at_least_float32(embeddings)))
    if jnp.shape(labels) != rows.shape[:1]:
        raise ValueError(
            f"embeddings have shape {jnp.shape(embeddings)} and labels "
            f"{jnp.shape(labels)}, expected [batch, ...] and [batch]."
        )
    distance = _distances(rows)
    same = labels[:, None] == labels[None, :]
    positive = same & ~jnp.eye(len(rows), dtype=bool)
    weight = negative_log_weights(
        *(distance, ~same, rows.shape[-1]), cutoff=cutoff, upper_cutoff=upper_cutoff
    )
    # One draw for each (anchor, positive); those that are no pair are not counted.
    drawn = jax.random.categorical(key, weight[:, None, :], shape=same.shape)
    negative = jnp.take_along_axis(distance, drawn, axis=1)
    loss = jnp.maximum(distance - negative + margin, 0)
    counted = positive & jnp.any(~same, axis=1, keepdims=True)
    total = jnp.sum(jnp.where(counted, loss, 0))
    return total / jnp.maximum(jnp.sum(counted), 1)


def negative_log_weights(
    distance: jax.Array,
    different: jax.Array,
    dimensions: int,
    *,
    cutoff: float = 0.5,
    upper_cutoff: float = 1.4,
) -> jax.Array:
    """Computes unnormalised log probabilities of negatives, without gradient.

    The density of distances ``d`` on a sphere in ``n`` dimensions is in proportion to
    ``d^(n-2) (1 - d^2 / 4)^((n-3)/2)``; its inverse is the weight.

    Args:
      distance: ``[batch, batch]``, of rows of length 1.
      different: the same shape, True where labels differ.
      dimensions: ``n``.
      cutoff: as for ``distance_weighted_triplet``.
      upper_cutoff: likewise.

    Returns:
      ``[batch, batch]``, minus infinity where a negative cannot be drawn; zeros in the
      rows that have none at all.
    """
    d = jnp.maximum(jax.lax.stop_gradient(distance), cutoff)
    inside = jnp.maximum(1 - d**2 / 4, 1e-8)
    log = (2 - dimensions) * jnp.log(d) + (3 - dimensions) / 2 * jnp.log(inside)
    near = different & (d < upper_cutoff)
    some_near = jnp.any(near, axis=1, keepdims=True)
    log = jnp.where(some_near, jnp.where(near, log, -jnp.inf), 0)
    log = jnp.where(~some_near & ~different, -jnp.inf, log)
    return jnp.where(jnp.any(different, axis=1, keepdims=True), log, 0)


def _distances(rows: jax.Array) -> jax.Array:
    """Computes distances between rows; between equal ones 0, with no gradient."""
    difference = rows[:, None] - rows[None, :]
    square = einsum("ijf,ijf->ij", difference, difference)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
