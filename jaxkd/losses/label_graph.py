"""Exact marginals over the consistent vectors of a label graph, and their losses.

A label graph lists what may be true together: a face is fake only if its root label is
on, an attribute is altered only if one of its regions is. The logits define a
distribution over the consistent vectors alone, so the marginals never contradict each
other. Zou et al., "Semantics-Oriented Multitask Learning for DeepFake Detection"
(arXiv:2405.08487), and the joint embedding that follows it (arXiv:2408.16305).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.losses.consistent_labels import UNKNOWN, LabelGraph
from jaxkd.losses.numerics import at_least_float32

__all__ = [
    "KINDS",
    "MEANS",
    "UNKNOWN",
    "LabelGraph",
    "given_fake",
    "level_losses",
    "level_losses_of_marginals",
    "log_marginals",
    "most_probable_state",
]

KINDS = ("bce", "fidelity")
MEANS = ("batch", "known")
FIDELITY_EPSILON = 1e-8  # of the published code; keeps the root's slope finite


def log_marginals(logits: jax.Array, graph: LabelGraph) -> tuple[jax.Array, jax.Array]:
    """Computes the logarithms of every node's probability of being on, and off.

    A consistent vector ``s`` has probability ``exp(f . s) / Z``, with ``Z`` the sum
    over the consistent vectors; ``p_i`` sums those with ``s_i = 1``. The published code
    takes logarithms of ``p``, clamped at -100, in float64; here nothing is formed
    before its logarithm, so float32 is exact to rounding for logits of any size.

    Args:
      logits: ``f``, ``[..., nodes]``.
      graph: the consistent vectors.

    Returns:
      ``log p`` and ``log(1 - p)``, each ``[..., nodes]``.

    Raises:
      ValueError: if the logits are not of the graph's nodes.

    >>> graph = LabelGraph(("fake", "eyes"), ((0,), (1,)), ((0, 1),))
    >>> log_p, log_not_p = log_marginals(jnp.zeros(2), graph)
    >>> print(np.exp(log_p).round(3), np.exp(log_not_p).round(3))
    [0.667 0.333] [0.333 0.667]
    """
    scores = _scores(logits, graph)[..., None, :]
    on = jnp.asarray(graph.states.T == 1)
    weight_on = jax.nn.logsumexp(jnp.where(on, scores, -jnp.inf), axis=-1)
    weight_off = jax.nn.logsumexp(jnp.where(on, -jnp.inf, scores), axis=-1)
    # The two sets make up all vectors. From their ratio both logarithms are exact,
    # also the one of a probability that rounds to 1.
    odds = weight_on - weight_off
    return jax.nn.log_sigmoid(odds), jax.nn.log_sigmoid(-odds)


def most_probable_state(logits: jax.Array, graph: LabelGraph) -> jax.Array:
    """Finds the consistent vector of highest probability.

    Args:
      logits: ``[..., nodes]``.
      graph: the consistent vectors.

    Returns:
      int8 ``[..., nodes]``; of equals, the first in the order of ``graph.states``.

    >>> graph = LabelGraph(("fake", "eyes"), ((0,), (1,)), ((0, 1),))
    >>> most_probable_state(jnp.array([-1.0, 2.0]), graph).tolist()
    [1, 1]
    """
    best = jnp.argmax(_scores(logits, graph), axis=-1)
    return jnp.asarray(graph.states)[best]


def given_fake(logits: jax.Array, graph: LabelGraph) -> jax.Array:
    """Computes each node's probability given that the root is on.

    ``p_i / p_0``, since every node needs the root: which attributes and regions were
    altered, if any were.

    Args:
      logits: ``[..., nodes]``.
      graph: the consistent vectors.

    Returns:
      ``[..., nodes]``, 1 for the root.

    >>> graph = LabelGraph(("fake", "eyes"), ((0,), (1,)), ((0, 1),))
    >>> given_fake(jnp.array([-90.0, 0.0]), graph).round(3).tolist()
    [1.0, 0.5]
    """
    log_p, _ = log_marginals(logits, graph)
    return jnp.minimum(jnp.exp(log_p - log_p[..., :1]), 1)


def level_losses(
    logits: jax.Array,
    labels: jax.Array,
    graph: LabelGraph,
    *,
    kind: str = "bce",
    where: jax.Array | None = None,
    mean: str = "batch",
) -> jax.Array:
    """Computes the loss of each level of a label graph, a mean over the batch.

    ``L_k = mean_{i in level k} l_i`` with, for the marginals ``p`` and labels ``y``,

    - ``bce``: ``l_i = mean_batch -y_i log p_i - (1 - y_i) log(1 - p_i)``
      (arXiv:2405.08487);
    - ``fidelity``: ``l_i = mean_batch 1 - sqrt(p_i y_i + e) - sqrt((1 - p_i)(1 - y_i) +
      e)``, ``e = 1e-8`` as published, so that its least value is -1e-4
      (arXiv:2408.16305).

    Args:
      logits: ``[batch, nodes]``.
      labels: ``[batch, nodes]`` in [0, 1]; 2 where unknown. Others make their level
        NaN.
      graph: the consistent vectors and levels.
      kind: ``"bce"`` or ``"fidelity"``.
      where: ``[batch, nodes]`` or ``[batch]``, False for labels to leave out.
      mean: ``"batch"`` divides by the size of the batch, as published, so a node that
        is mostly unknown counts little; ``"known"`` divides by the known labels.

    Returns:
      ``[levels]``; the batch is coupled through its mean.

    Raises:
      ValueError: if shapes do not fit, or an option is unknown.

    >>> graph = LabelGraph(("fake", "eyes"), ((0,), (1,)), ((0, 1),))
    >>> print(level_losses(np.zeros((1, 2)), np.ones((1, 2)), graph))
    [0.4054651 1.0986123]
    """
    return level_losses_of_marginals(
        *log_marginals(logits, graph),
        labels,
        graph.levels,
        kind=kind,
        where=where,
        mean=mean,
    )


def level_losses_of_marginals(
    log_p: jax.Array,
    log_not_p: jax.Array,
    labels: jax.Array,
    levels: Sequence[Sequence[int]],
    *,
    kind: str = "bce",
    where: jax.Array | None = None,
    mean: str = "batch",
) -> jax.Array:
    """Computes the losses of ``level_losses`` from probabilities of any origin.

    Independent sigmoids, the usual multi-label head, are
    ``log_p, log_not_p = log_sigmoid(f), log_sigmoid(-f)``.

    Args:
      log_p: ``[batch, nodes]``, logarithm of the probability of being on.
      log_not_p: ``[batch, nodes]``, of being off.
      labels: see ``level_losses``.
      levels: nodes of each level.
      kind: see ``level_losses``.
      where: see ``level_losses``.
      mean: see ``level_losses``.

    Returns:
      ``[levels]``.

    Raises:
      ValueError: if shapes do not fit, or an option is unknown.
    """
    _check_losses(log_p, labels, where, kind, mean)
    labels = at_least_float32(jax.lax.stop_gradient(labels))
    known = labels <= 1
    if where is not None:
        where = jnp.asarray(where)
        known &= where[:, None] if where.ndim == 1 else where
    # Neither off, nor on, nor unknown: whose loss nobody knows either.
    strange = (labels < 0) | ((labels > 1) & (labels != UNKNOWN))
    if where is not None:
        strange &= where[:, None] if where.ndim == 1 else where
    labels = jnp.where(known, labels, 0)
    if kind == "bce":
        loss = -labels * log_p - (1 - labels) * log_not_p
    else:
        on = jnp.sqrt(jnp.exp(log_p) * labels + FIDELITY_EPSILON)
        off = jnp.sqrt(jnp.exp(log_not_p) * (1 - labels) + FIDELITY_EPSILON)
        loss = 1 - on - off
    loss = jnp.where(known | strange, loss, 0) * jnp.where(strange, jnp.nan, 1)
    total = jnp.sum(loss, axis=0)
    counts = jnp.sum(known, axis=0) if mean == "known" else labels.shape[0]
    per_node = total / jnp.maximum(counts, 1)
    return jnp.stack([per_node[np.array(level)].mean() for level in levels])


def _scores(logits, graph: LabelGraph) -> jax.Array:
    """Returns ``f . s`` of every consistent vector, ``[..., states]``."""
    logits = at_least_float32(logits)
    if logits.shape[-1:] != (len(graph.nodes),):
        raise ValueError(
            f"logits have shape {logits.shape}, expected [..., {len(graph.nodes)}]: "
            f"one for each of {', '.join(graph.nodes)}."
        )
    states = jnp.asarray(graph.states.T, logits.dtype)
    return jnp.matmul(logits, states, precision=jax.lax.Precision.HIGHEST)


def _check_losses(log_p, labels, where, kind: str, mean: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {KINDS}.")
    if mean not in MEANS:
        raise ValueError(f"mean is {mean!r}, expected one of {MEANS}.")
    shape = jnp.shape(log_p)
    if len(shape) != 2 or jnp.shape(labels) != shape:
        raise ValueError(
            f"logits have shape {shape} and labels {jnp.shape(labels)}, expected "
            "[batch, nodes] of both."
        )
    if where is not None and jnp.shape(where) not in (shape, shape[:1]):
        raise ValueError(
            f"where has shape {jnp.shape(where)}, expected {shape} or {shape[:1]}."
        )
