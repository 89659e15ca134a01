"""How well lines of text are read: exact matches and edit distances."""

from collections.abc import Mapping, Sequence

import numpy as np

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
END = 0


def decode(
    tokens: np.ndarray, alphabet: str = ALPHABET, *, end: int = END
) -> list[str]:
    """Turns class numbers into text, up to the first end.

    Args:
      tokens: integers ``[lines, slots]``; ``end``, and from 1 on the characters.
      alphabet: of the characters.
      end: class number of the end.

    >>> decode(np.array([[11, 2, 0, 7]]))
    ['a1']
    """
    lines = []
    for row in np.asarray(tokens):
        stop = np.flatnonzero(row == end)
        row = row[: stop[0]] if stop.size else row
        lines.append("".join(alphabet[token - 1] for token in row))
    return lines


def edit_distance(a: str, b: str) -> int:
    """Counts the insertions, deletions and replacements that turn ``a`` into ``b``.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        corner, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            change = corner + (left != right)
            corner = row[j]
            row[j] = min(change, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def score(
    predictions: Sequence[str], truths: Sequence[str], *, ignore_case: bool = True
) -> dict[str, np.ndarray]:
    """Scores lines one by one.

    Args:
      predictions: what was read.
      truths: what is written.
      ignore_case: as the TextZoom protocol does.

    Returns:
      ``exact`` (1 or 0), ``edit_distance``, and ``similarity``, which is 1 less the
      distance over the longer length (1 for two empty lines); ``[lines]`` each.

    >>> score(["abc"], ["ABd"])["edit_distance"].tolist()
    [1.0]
    """
    rows = []
    for found, truth in zip(predictions, truths, strict=True):
        if ignore_case:
            found, truth = found.lower(), truth.lower()
        distance = edit_distance(found, truth)
        longest = max(len(found), len(truth), 1)
        rows.append((float(found == truth), distance, 1 - distance / longest))
    table = np.asarray(rows, float).reshape(-1, 3).T
    return dict(zip(("exact", "edit_distance", "similarity"), table, strict=True))


def summary(scores: Mapping[str, np.ndarray], groups: Sequence[str]) -> dict:
    """Averages scores within groups of lines, and over all lines.

    Args:
      scores: name -> ``[lines]``.
      groups: of each line, such as TextZoom's easy, medium and hard.

    Returns:
      group -> name -> mean; ``all`` weighs the groups by their lines.

    >>> summary({"exact": np.array([1.0, 0, 0])}, ["easy", "hard", "hard"])["all"]
    {'exact': 0.3333333333333333}
    """
    names = np.asarray(groups)
    parts = {name: names == name for name in dict.fromkeys(groups)}
    parts["all"] = np.ones(len(names), bool)
    return {
        group: {name: float(np.mean(x[rows])) for name, x in scores.items()}
        for group, rows in parts.items()
    }
