"""Edit distances against brute force; groups of lines."""

import functools

import numpy as np

from jaxkd.metrics import text


@functools.cache
def slow(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0])
    )


def test_edit_distance_is_that_of_the_recursion():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 6))) for _ in range(2))
        assert text.edit_distance(a, b) == slow(a, b)


def test_scores_and_groups():
    scores = text.score(["Ab1", "xy", ""], ["aB1", "xyz", ""])
    np.testing.assert_array_equal(scores["exact"], [1, 0, 1])
    np.testing.assert_array_equal(scores["edit_distance"], [0, 1, 0])
    np.testing.assert_allclose(scores["similarity"], [1, 2 / 3, 1])
    strict = text.score(["Ab1"], ["aB1"], ignore_case=False)
    assert strict["exact"] == 0 and strict["edit_distance"] == 2
    table = text.summary(scores, ["easy", "hard", "easy"])
    assert table["easy"]["exact"] == 1 and table["hard"]["exact"] == 0
    np.testing.assert_allclose(table["all"]["exact"], 2 / 3)


def test_lines_end_at_the_first_end():
    tokens = np.array([[36, 1, 0, 5], [1, 2, 3, 4], [0, 1, 1, 1]])
    assert text.decode(tokens) == ["z0", "0123", ""]
