"""Tables of detectors of forged clips, counted by hand, and with one class."""

import numpy as np
import pytest

from jaxkd.evaluators import clips as evaluator

SEEN = {"real", "faceswap"}


def member(odds):
    odds = np.asarray(odds, float)
    logits = np.stack([np.zeros_like(odds), odds], 1)
    return evaluator.Scores(logits, -odds, None)


def test_each_kind_is_tested_against_the_real_clips():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    kinds = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    groups = evaluator._groups(labels, kinds, ("real", "faceswap", "swap"))
    own = member([-2, -1, 0, 1, 2, 3, 0.5, 1.5])
    found = evaluator._aucs(own.head, labels, groups, SEEN)
    assert found == {"faceswap": 1, "swap": 7 / 8, "seen": 1, "unseen": 7 / 8}
    rows = evaluator._threshold_table({"all": [own]}, labels, groups).rows
    # Of the real clips -2 and 0 choose the threshold 0: one of -1 and 1 is above it.
    assert rows[1] == ["all", "0.50", "1.00", "1.00"]
    low, high = evaluator._interval([own], labels, groups, ["swap"])
    assert 0 <= low <= 7 / 8 <= high <= 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 1, 1, 1], "All test clips are forged"), ([0, 0, 0, 0], "are real: AUC")],
)
def test_one_class_gives_tables_without_numbers(labels, message):
    labels = np.array(labels)
    kinds = labels * np.array([1, 1, 2, 2])
    groups = evaluator._groups(labels, kinds, ("real", "faceswap", "swap"))
    members = {"all": [member([-1, 0, 1, 2])]}
    found = {
        "all": [evaluator._aucs(m.head, labels, groups, SEEN) for m in members["all"]]
    }
    table = evaluator._auc_table(found, groups, SEEN, members, labels)
    assert message in table.note
    assert table.rows[1][1:-2] == ["–"] * (len(table.rows[1]) - 3)
    evaluator._official_table(members, labels, groups)
    rows = evaluator._threshold_table(members, labels, groups).rows
    assert len(rows[1]) == 2 + len(groups)
