"""Graphs of labels: exact marginals over consistent label vectors, and their losses.

A label graph lists what may be true together: a face is fake only if its root label is
on, an attribute is altered only if one of its regions is. The logits define a
distribution over the consistent vectors alone, so the marginals never contradict each
other. Zou et al., "Semantics-Oriented Multitask Learning for DeepFake Detection"
(arXiv:2405.08487), and the joint embedding that follows it (arXiv:2408.16305).
"""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.losses.numerics import at_least_float32

UNKNOWN = 2  # the label of a node whose truth nobody knows
KINDS = ("bce", "fidelity")
MEANS = ("batch", "known")
FIDELITY_EPSILON = 1e-8  # of the published code; keeps the root's slope finite

_LARGE, _LARGEST = 20, 24  # nodes: 2^20 vectors are seconds, 2^24 are gigabytes

Node = int | str


@dataclasses.dataclass(frozen=True)
class LabelGraph:
    """Names the consistent vectors of binary labels that hang together in a graph.

    A vector is consistent if (a) every node below the root that is on has a parent on,
    (b) every node below the root that is on and has children has a child on, and (c)
    no two nodes of an exclusion are both on. The root may be on alone: fake, by no
    named attribute.

    Attributes:
      nodes: names; a node's place is its index in logits and labels.
      levels: nodes of each level, from coarse to fine; the first is the root alone,
        which is node 0. Given by index or by name, kept by index.
      edges: pairs (parent, child), given likewise.
      exclusions: pairs that are never both on, given likewise.

    Raises:
      ValueError: if a node is unknown, in no level or in two, has no parent, or can
        never be on; if the root is not node 0; if there are too many nodes.

    >>> graph = LabelGraph(("fake", "eyes", "nose"), (("fake",), ("eyes", "nose")),
    ...                    (("fake", "eyes"), ("fake", "nose")))
    >>> graph.states.tolist()
    [[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]]
    """

    # Given as any sequences, by name or index; kept as tuples of indices.
    nodes: Any
    levels: Any
    edges: Any
    exclusions: Any = ()

    def __post_init__(self):
        nodes = tuple(self.nodes)
        if len(set(nodes)) != len(nodes):
            raise ValueError(f"nodes has a name twice: {nodes}. Names are unique.")
        resolve = functools.partial(_resolve, nodes)
        # The dataclass is frozen, so that it can be a static argument of jax.jit.
        fix = functools.partial(object.__setattr__, self)
        fix("nodes", nodes)
        fix("levels", tuple(resolve(level) for level in self.levels))
        fix("edges", tuple(dict.fromkeys(resolve(edge) for edge in self.edges)))
        fix("exclusions", tuple(resolve(pair) for pair in self.exclusions))
        _check_structure(self)
        never = [nodes[i] for i in np.flatnonzero(~self.states.any(axis=0))]
        if never:
            raise ValueError(
                f"{never} can never be on: the edges and exclusions forbid it. Remove "
                "the node or an exclusion."
            )

    @classmethod
    def ffsc(cls) -> "LabelGraph":
        """Returns the FFSC graph: 12 nodes, 1544 consistent vectors.

        The published list of edges repeats pose -> mouth and omits pose -> lip; its
        tables of parents, which decide consistency there, have both, as here.
        """
        regions = ("eye", "eyebrow", "lip", "mouth", "nose", "skin")
        return cls._of_attributes(
            {
                "age": ("eye", "skin"),
                "expression": ("eye", "lip", "mouth", "nose", "skin"),
                "gender": ("eye", "eyebrow", "lip", "mouth", "skin"),
                "identity": regions,
                "pose": regions,
            },
            regions,
        )

    @classmethod
    def ffpp(cls) -> "LabelGraph":
        """Returns the FaceForensics++ graph: 10 nodes, 251 consistent vectors."""
        regions = ("eye", "eyebrow", "lip", "mouth", "nose", "skin")
        return cls._of_attributes(
            {
                "expression": ("lip", "mouth"),
                "identity": regions,
                "physical inconsistency": ("eye", "lip", "mouth", "nose"),
            },
            regions,
        )

    @classmethod
    def _of_attributes(cls, attributes, regions) -> "LabelGraph":
        edges = [("fake", name) for name in attributes]
        edges += [(name, part) for name, parts in attributes.items() for part in parts]
        levels = (("fake",), tuple(attributes), regions)
        return cls(("fake", *attributes, *regions), levels, edges)

    @functools.cached_property
    def states(self) -> np.ndarray:
        """The consistent vectors: int8 ``[states, nodes]``, in ascending order."""
        count = len(self.nodes)
        codes = np.arange(2**count, dtype=np.int32)
        # Node 0 is the most significant bit, so that the rows read as sorted codes.
        on = [(codes >> (count - 1 - i)) & 1 == 1 for i in range(count)]
        legal = np.ones(2**count, bool)
        for parents, children, node in self._rules():
            if parents:
                legal &= ~on[node] | np.any([on[i] for i in parents], axis=0)
            if children:
                legal &= ~on[node] | np.any([on[i] for i in children], axis=0)
        for one, other in self.exclusions:
            legal &= ~(on[one] & on[other])
        return np.stack([bits[legal] for bits in on], axis=1).astype(np.int8)

    @property
    def root_bias(self) -> float:
        """The root's logit at which it has probability 1/2 when all others are 0.

        Nearly all consistent vectors have the root on, so with zero logits everything
        would be called fake: with probability 0.9994 in the FFSC graph.
        """
        on = int(self.states[:, 0].sum())
        return float(np.log(len(self.states) - on) - np.log(on))

    def check(self, code: str | Sequence[int | str]) -> np.ndarray:
        """Checks a label code and returns it as an array.

        Args:
          code: one of 0 (off), 1 (on) and 2 (unknown) per node, as text
            (``"110000100001"``) or as numbers.

        Returns:
          int8 ``[nodes]``.

        Raises:
          ValueError: if its length or a character is wrong, or no consistent vector
            agrees with its known entries; the rule that it breaks is named.
        """
        shown = code if isinstance(code, str) else "".join(map(str, code))
        if len(code) != len(self.nodes):
            raise ValueError(
                f"The label code {shown!r} has {len(code)} entries, expected "
                f"{len(self.nodes)}: one for each of {', '.join(self.nodes)}."
            )
        for place, entry in enumerate(code):
            if str(entry) not in ("0", "1", "2"):
                raise ValueError(
                    f"The label code {shown!r} has {entry!r} for "
                    f"{self.nodes[place]!r}, expected 0 (off), 1 (on) or 2 (unknown)."
                )
        labels = np.array([int(entry) for entry in code], np.int8)
        known = labels != UNKNOWN
        if not np.all(self.states[:, known] == labels[known], axis=1).any():
            raise ValueError(
                f"The label code {shown!r} is not consistent: {self._broken(labels)}."
            )
        return labels

    def _rules(self) -> list[tuple[list[int], list[int], int]]:
        """Lists (parents, children, node) for every node below the root."""
        return [
            (
                [parent for parent, child in self.edges if child == node],
                [child for parent, child in self.edges if parent == node],
                node,
            )
            for node in range(1, len(self.nodes))
        ]

    def _broken(self, labels: np.ndarray) -> str:
        """Names the first rule that no choice of the unknown entries can satisfy."""

        def names(nodes: list[int]) -> str:
            return " or ".join(repr(self.nodes[i]) for i in nodes)

        for parents, children, node in self._rules():
            if labels[node] != 1:
                continue
            if not labels[parents].any():
                return f"{self.nodes[node]!r} is on, so {names(parents)} must be on"
            if children and not labels[children].any():
                return f"{self.nodes[node]!r} is on, so {names(children)} must be on"
        for one, other in self.exclusions:
            if labels[one] == 1 and labels[other] == 1:
                return f"{names([one])} and {names([other])} exclude each other"
        return "no choice of the unknown entries satisfies all rules at once"


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


def _resolve(names: tuple[str, ...], nodes: Sequence[Node]) -> tuple[int, ...]:
    """Turns names of nodes into indices, and checks them."""
    if isinstance(nodes, str) or not isinstance(nodes, Sequence):
        raise ValueError(f"Expected a tuple of nodes, got {nodes!r}.")
    found = []
    for node in nodes:
        known = node in names if isinstance(node, str) else 0 <= node < len(names)
        if not known:
            raise ValueError(
                f"{node!r} is no node. Expected an index below {len(names)} or one of "
                f"{', '.join(names)}."
            )
        found.append(names.index(node) if isinstance(node, str) else int(node))
    return tuple(found)


def _check_structure(graph: LabelGraph) -> None:
    count = len(graph.nodes)
    if count > _LARGEST:
        raise ValueError(
            f"The graph has {count} nodes, expected at most {_LARGEST}: all 2^{count} "
            "vectors are listed once to find the consistent ones. Merge nodes."
        )
    if count > _LARGE:
        warnings.warn(
            f"The graph has {count} nodes: 2^{count} vectors are listed once, and "
            "every batch is compared with all consistent ones.",
            stacklevel=4,
        )
    if sorted(node for level in graph.levels for node in level) != [*range(count)]:
        raise ValueError(
            f"levels is {graph.levels}, expected each of the {count} nodes once."
        )
    if graph.levels[0] != (0,):
        raise ValueError(
            f"The first level is {graph.levels[0]}, expected node 0, the root, alone."
        )
    pairs = (*graph.edges, *graph.exclusions)
    if any(len(pair) != 2 or pair[0] == pair[1] for pair in pairs):
        raise ValueError("edges and exclusions are pairs of different nodes.")
    children = {child for _, child in graph.edges}
    orphans = [graph.nodes[i] for i in range(1, count) if i not in children]
    if orphans or 0 in children:
        raise ValueError(
            f"{orphans or [graph.nodes[0]]}: every node but the root needs a parent "
            "among the edges, and the root has none."
        )
