import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.pipelines.parallel_edits import aligner


def best_score(source, target):
    """The best score of any alignment, by trying them all."""
    if not source or not target:
        return 0
    pair = 1 if source[0] == target[0] else -1
    return max(
        pair + best_score(source[1:], target[1:]),
        best_score(source[1:], target),
        best_score(source, target[1:]),
    )


def test_alignment_is_the_best_there_is():
    rng = np.random.default_rng(0)
    for _ in range(30):
        source = rng.integers(4, size=rng.integers(1, 6)).tolist()
        target = rng.integers(4, size=rng.integers(1, 6)).tolist()
        found = aligner.align(source, target)
        used = found[found >= 0]
        assert np.all(np.diff(used) > 0)
        pairs = [(source[i], target[j]) for j, i in enumerate(found) if i >= 0]
        score = sum(1 if a == b else -1 for a, b in pairs)
        assert score == best_score(source, target)


def test_swapped_word_is_an_insertion():
    # A mismatch costs more than two gaps.
    assert aligner.align([9, 1, 2, 8], [9, 1, 3, 8]).tolist() == [0, 1, -1, 3]


def test_refinement_of_an_added_word_shifts_the_rest():
    source = np.array([9, 1, 2, 8, 8, 8])
    target = np.array([9, 1, 5, 2, 8, 8])
    mapper, mapped, paired = aligner.refinement(source, target)
    assert mapper[:5].tolist() == [0, 1, 0, 2, 3] and mapper[5] == 5
    assert mapped.tolist() == [1, 1, 0, 1, 1, 1]
    assert not paired.any()


def test_inserted_token_takes_the_most_similar_of_its_gap():
    source = np.array([9, 1, 2, 3, 8, 8])  # 2 3 -> 6 7
    target = np.array([9, 1, 6, 7, 8, 8])
    similarity = np.zeros((6, 6))
    similarity[2, 2], similarity[3, 2], similarity[3, 3] = 0.2, 0.9, 0.5
    similarity[3, 1] = 1.0  # outside the gap
    mapper, mapped, paired = aligner.refinement(source, target, similarity=similarity)
    assert mapper[3] == 2
    assert mapped.tolist() == [1, 1, 0, 1, 1, 1]
    assert np.flatnonzero(paired).tolist() == [3]
    swapped, _, paired = aligner.refinement(
        source, target, similarity=similarity, swapped=True
    )
    # Transposed, the largest is [2, 3], which pairs the other two.
    assert swapped[2] == 3 and np.flatnonzero(paired).tolist() == [2]


def test_replacement_spreads_a_word_over_its_pieces():
    old = np.array([-1, 0, 1, 2, -1, -1, -1])
    new = np.array([-1, 0, 1, 1, 2, -1, -1])
    matrix = aligner.replacement(old, new, [1])
    attention = np.arange(1.0, 8.0)
    assert (attention @ matrix).tolist() == [1, 2, 1.5, 1.5, 4, 5, 6]
    with pytest.raises(UserError, match="as many in both"):
        aligner.replacement(old, np.array([-1, 0, 1, -1, -1, -1, -1]), [1])


def test_words_are_found_by_place():
    assert aligner.find_words("a bicycle, by a bicycle", "bicycle a bicycle") == [
        0,
        1,
        4,
    ]
    with pytest.raises(UserError, match="'dog' is not in the prompt"):
        aligner.find_words("a cat", "dog")
    with pytest.raises(UserError, match="that often"):
        aligner.find_words("a cat", "cat cat")
    words = np.array([-1, 0, 1, 1, -1])
    assert aligner.select(words, [1]).tolist() == [0, 0, 1, 1, 0]
