"""Label graphs: which vectors of binary labels are consistent with each other.

Zou et al., "Semantics-Oriented Multitask Learning for DeepFake Detection"
(arXiv:2405.08487), and the joint embedding that follows it (arXiv:2408.16305).
"""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

UNKNOWN = 2  # the label of a node whose truth nobody knows

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
      ValueError: if a node is unknown, in no level or in two, has no parent, can never
        be on, or can be on without the root; if the root is not node 0; if there are
        too many nodes.

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

        alone = self.states[self.states[:, 0] == 0].any(axis=0)
        if alone.any():
            raise ValueError(
                f"{[nodes[i] for i in np.flatnonzero(alone)]} can be on without the "
                "root: the edges lead in a circle. Every node comes from the root."
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
