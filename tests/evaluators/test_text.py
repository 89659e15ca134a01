"""Lines of two test sets, read by two seeds, counted by hand."""

from types import SimpleNamespace

import numpy as np

from jaxkd.evaluators import text

BATCH = {
    "tokens": np.array([[1, 2, 0], [2, 0, 0], [1, 1, 0], [0, 0, 0]]),  # ab, b, aa
    "group": np.array([0, 1, 1, 0]),
    "mask": np.array([True, True, True, False]),
}
READ = {1: [[1, 2, 0], [2, 2, 0], [1, 1, 0], [1, 1, 1]], 2: [[1, 0, 2], [2, 0, 0]]}


def member(seed):
    tokens = np.array(READ[seed] if seed == 1 else READ[2] + READ[1][2:])
    logits = np.eye(3)[tokens]
    return SimpleNamespace(
        student="x", seed=seed, predict=lambda batch: {"logits": logits}
    )


def study(batch, **test):
    members = [member(1), member(2)]
    return SimpleNamespace(
        members=members,
        dataset=SimpleNamespace(
            info=SimpleNamespace(class_names=("end", "a", "b")),
            test=SimpleNamespace(**test),
        ),
        batches=lambda: iter([batch]),
        by_student=lambda: {"x": members},
    )


def test_sets_are_counted_apart_and_together():
    report = text.find(study(BATCH, groups=("easy", "hard")))
    # Seed 1 reads bb for b; seed 2 reads a for ab.
    expected = {
        "exact_easy": [1, 0],
        "exact_hard": [1 / 2, 1],
        "edit_distance": [1 / 3, 1 / 3],
        "similarity": [2.5 / 3, 2.5 / 3],
    }
    assert report.scores["x"].keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(report.scores["x"][name], values)
    (table,) = report.tables
    assert table.rows[0][1:4] == ["easy", "hard", "all"] and table.note[0] == "3"
    assert table.rows[1][3].startswith("66.67")


def test_one_set_is_all():
    batch = {name: BATCH[name] for name in ("tokens", "mask")}
    report = text.find(study(batch))
    assert report.scores["x"].keys() == {"edit_distance", "similarity"}
    assert report.tables[0].rows[0][1] == "all"
