"""Groups aspects into branches by where their words are attended to (section 4.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxkd.diffusion.attention_control import GLOBAL, NON_RIGID, RIGID
from jaxkd.pipelines.parallel_edits.aspects import SWAP, Aspect

# Of a map scaled to 0..255: binarised here, or averaged over a few such levels.
AREA_LEVEL = 100
OVERLAP_LEVELS = range(90, 110)


class Group(NamedTuple):
    """Aspects that are edited in one branch.

    Attributes:
      kind: ``RIGID``, ``NON_RIGID`` or ``GLOBAL``.
      aspects: their numbers.
    """

    kind: int
    aspects: tuple[int, ...]


def scale_map(values: np.ndarray) -> np.ndarray:
    """Scales a map to 0..255 by its own maximum; a map of zeros stays."""
    top = float(np.max(values))
    return 255.0 * np.asarray(values) / top if top > 0 else np.zeros_like(values)


def overlap(a: np.ndarray, b: np.ndarray, *, union: bool = False) -> float:
    """Measures how far two scaled maps cover each other, 0 to 1.

    The overlap coefficient ``|A & B| / min(|A|, |B|)``, averaged over the levels 90 to
    109; the official code calls it mIoU.

    Args:
      a: ``[height, width]``, of 0..255.
      b: likewise.
      union: whether to divide by the union, as the paper writes.
    """
    values = []
    for level in OVERLAP_LEVELS:
        first, second = a > level, b > level
        both = np.sum(first & second)
        smaller = min(np.sum(first), np.sum(second))
        total = np.sum(first | second) if union else smaller
        values.append(both / total if total else 0.0)
    return float(np.mean(values))


def kind_of(
    aspect: Aspect,
    source_map: np.ndarray | None,
    target_map: np.ndarray | None,
    *,
    theta: float = 0.9,
    beta: float = 0.8,
    union: bool = False,
) -> int:
    """Finds whether an aspect is rigid, non-rigid or global.

    Global, if it concerns the whole picture or its words cover ``beta`` of it;
    non-rigid, if something is added or deleted, or the old and the new words overlap by
    less than ``theta`` (eq. 3; algorithm 1 of the paper has the sign reversed).

    Args:
      aspect: the edit.
      source_map: scaled map of the old words; None if there are none.
      target_map: scaled map of the new words; None if there are none.
      theta: least overlap of a rigid edit.
      beta: least share of the pixels of a global edit.
      union: see ``overlap``.
    """
    shown = target_map if target_map is not None else source_map
    if aspect.whole:
        return GLOBAL
    if shown is not None and np.mean(shown > AREA_LEVEL) >= beta:
        return GLOBAL
    if aspect.action != SWAP or source_map is None or target_map is None:
        return NON_RIGID
    near = overlap(source_map, target_map, union=union) >= theta
    return RIGID if near else NON_RIGID


def group(
    kinds: Sequence[int],
    maps: Sequence[np.ndarray],
    *,
    theta: float = 0.9,
    merge_any: bool = False,
    rigid_first: bool = True,
    union: bool = False,
) -> list[Group]:
    """Clusters aspects of one kind whose maps overlap; all global ones are one group.

    Args:
      kinds: of the aspects.
      maps: scaled map of each aspect.
      theta: least overlap of two aspects of a group.
      merge_any: whether any overlap at all joins them, as in the official code.
      rigid_first: whether rigid groups come before non-rigid ones, as in the code;
        the paper's appendix has it the other way round.
      union: see ``overlap``.

    Returns:
      Groups in the order in which their branches follow one another.
    """
    least = np.nextafter(0.0, 1.0) if merge_any else theta
    order = (RIGID, NON_RIGID) if rigid_first else (NON_RIGID, RIGID)
    groups = []
    for kind in order:
        left = [i for i, own in enumerate(kinds) if own == kind]
        while left:
            first, *others = left
            near = [
                i for i in others if overlap(maps[first], maps[i], union=union) >= least
            ]
            groups.append(Group(kind, (first, *near)))
            left = [i for i in others if i not in near]
    wide = tuple(i for i, own in enumerate(kinds) if own == GLOBAL)
    return [*groups, Group(GLOBAL, wide)] if wide else groups
