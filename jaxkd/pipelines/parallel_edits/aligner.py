"""Aligns the tokens of two prompts (Prompt-to-Prompt, arXiv 2208.01626; InfEdit)."""

from collections.abc import Iterable, Sequence

import numpy as np

from jaxkd.core.errors import UserError

INSERTED = -1
GAP, MATCH, MISMATCH = 0, 1, -1


def align(source: Sequence[int], target: Sequence[int]) -> np.ndarray:
    """Aligns token numbers by Needleman and Wunsch's algorithm.

    Gaps cost nothing, a match gains 1, a mismatch loses 1. Of equal ways an insertion
    in the target is preferred to a deletion of the source, that to a pair.

    Returns:
      For each token of the target its token in the source, or ``INSERTED``.
    """
    rows, columns = len(source), len(target)
    scores = np.zeros((rows + 1, columns + 1), int)
    scores[1:, 0] = GAP * np.arange(1, rows + 1)
    scores[0, 1:] = GAP * np.arange(1, columns + 1)
    moves = np.zeros((rows + 1, columns + 1), int)  # 0 left, 1 up, 2 diagonal
    moves[1:, 0] = 1
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            pair = MATCH if source[i - 1] == target[j - 1] else MISMATCH
            options = (
                scores[i, j - 1] + GAP,
                scores[i - 1, j] + GAP,
                scores[i - 1, j - 1] + pair,
            )
            moves[i, j] = int(np.argmax(options))
            scores[i, j] = max(options)
    found = np.full(columns, INSERTED)
    i, j = rows, columns
    while i or j:
        move = moves[i, j]
        if move == 2:
            found[j - 1] = i - 1
        i -= int(move > 0)
        j -= int(move != 1)
    return found


def refinement(
    source: np.ndarray,
    target: np.ndarray,
    *,
    similarity: np.ndarray | None = None,
    swapped: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds for each token of the target the token of the source that it stands for.

    Of each run of inserted tokens the one that is most similar to a token of the source
    in the same gap is mapped to it.

    Args:
      source: token numbers of the prompt ``[length]``, padded after their end.
      target: likewise.
      similarity: ``[length, length]`` of the target's tokens to the source's; None maps
        no inserted token.
      swapped: whether to read ``similarity`` with exchanged indices, as the official
        code does.

    Returns:
      ``mapper`` int32 ``[length]``; ``mapped`` float32 ``[length]``, 1 for tokens with
      a source and for the padding; and ``paired``, bool ``[length]``, the inserted
      tokens that were mapped.
    """
    length, ends = len(target), (_count(source), _count(target))
    found = align(source[: ends[0]].tolist(), target[: ends[1]].tolist())
    paired = np.zeros(length, bool)
    if similarity is not None:
        table = similarity.T if swapped else similarity
        for begin, end in _runs(found):
            after = found[end] if end < len(found) else ends[0]
            gap = range(found[begin - 1] + 1 if begin else 0, after)
            if len(gap):
                part = table[begin:end][:, gap.start : gap.stop]
                row, column = np.unravel_index(np.argmax(part), part.shape)
                found[begin + row] = gap.start + column
                paired[begin + row] = True
    mapped = np.ones(length, np.float32)
    mapped[: ends[1]] = found != INSERTED
    mapper = np.arange(length, dtype=np.int32)  # beyond the end: the padding itself
    mapper[: ends[1]] = np.maximum(found, 0)
    return mapper, mapped, paired


def replacement(
    source_words: np.ndarray, target_words: np.ndarray, changed: Iterable[int]
) -> np.ndarray:
    """Makes the matrix that moves attention from words to those that replace them.

    Args:
      source_words: for each token the number of its word, negative for others.
      target_words: likewise; as many words.
      changed: numbers of the words that differ.

    Returns:
      ``[length, length]`` float32, from the source's tokens to the target's. A word of
      as many tokens is moved token by token; else each of its new tokens takes an equal
      part of each old one.

    Raises:
      UserError: if the prompts have different numbers of words.
    """
    if source_words.max() != target_words.max():
        raise UserError(
            f"Replacing words needs as many in both prompts; there are "
            f"{source_words.max() + 1} and {target_words.max() + 1}. Refine instead."
        )
    length, different = len(source_words), set(changed)
    matrix = np.zeros((length, length), np.float32)
    matrix[0, 0] = 1
    for word in range(source_words.max() + 1):
        old, new = (np.flatnonzero(w == word) for w in (source_words, target_words))
        if len(old) == len(new):
            matrix[old, new] = 1
        elif word in different:
            matrix[np.ix_(old, new)] = 1 / len(new)
        else:
            raise UserError(f"Word {word} differs but is not named as changed.")
    ends = _count_words(source_words), _count_words(target_words)
    tail = np.arange(length - max(ends))
    matrix[ends[0] + tail, ends[1] + tail] = 1  # the end and the padding
    return matrix


def select(
    words: np.ndarray, chosen: Iterable[int], length: int | None = None
) -> np.ndarray:
    """Returns 1 for the tokens of chosen words, else 0; float32."""
    length = len(words) if length is None else length
    return np.isin(words, list(chosen)).astype(np.float32)[:length]


def find_words(prompt: str, names: str | Sequence[str]) -> list[int]:
    """Finds words in a prompt, each as often as it is named, from the left.

    Args:
      prompt: the prompt.
      names: words to find, in any order.

    Raises:
      UserError: if one is not in the prompt.
    """
    names = names.split() if isinstance(names, str) else list(names)
    words = [word.lower().strip(".,!?;:") for word in prompt.split()]
    found: list[int] = []
    for name in names:
        places = [i for i, word in enumerate(words) if word == name.lower()]
        free = [i for i in places if i not in found]
        if not free:
            raise UserError(
                f"The word {name!r} is not in the prompt {prompt!r}"
                f"{' that often' if places else ''}. Name words that are in it."
            )
        found.append(free[0])
    return sorted(found)


def cosine(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Computes the cosines of hidden states ``[target tokens, source tokens]``."""
    target, source = (
        np.asarray(x) / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        for x in (target, source)
    )
    return target @ source.T


def _count(ids: np.ndarray) -> int:
    """Returns the number of tokens up to the end token, which pads the row."""
    ids = np.asarray(ids)
    different = np.flatnonzero(ids != ids[-1])
    return min(int(different[-1]) + 2 if len(different) else 1, len(ids))


def _count_words(words: np.ndarray) -> int:
    return int(np.flatnonzero(words >= 0)[-1]) + 1


def _runs(found: np.ndarray) -> list[tuple[int, int]]:
    """Returns the maximal runs of inserted tokens as (begin, end)."""
    edges = np.diff(np.concatenate([[0], found == INSERTED, [0]]).astype(int))
    return list(
        zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    )
