"""The statistics of a study against numbers computed by hand."""

import math

import numpy as np
import pytest

from jaxkd.report import statistics


def student(top1, best=None, method="kd", model="resnet8", parameters=10, flops=None):
    result = {
        "method": method,
        "model": model,
        "parameters": parameters,
        "steps": 100,
        "last": {"top1": top1},
    }
    if flops is not None:
        result["flops_per_image"] = flops
    if best is not None:
        result["best"] = {"top1": best, "step": [100] * len(best)}
    return result


def results(students, reference=None, frozen=None):
    return {"students": students, "reference": reference, "frozen": frozen or {}}


def test_mean_and_standard_error_over_seeds():
    # Deviations -0.02, 0, 0.02: variance 0.0008 / 2, error sqrt(0.0004 / 3).
    row = statistics.study_rows(results({"kd": student([0.60, 0.62, 0.64])}))[0]
    assert row.last.mean == pytest.approx(0.62)
    assert row.last.error == pytest.approx(math.sqrt(0.0004 / 3))
    assert row.last.values == (0.60, 0.62, 0.64)
    assert row.best is None and row.difference is None and row.wins is None
    assert (row.name, row.method, row.steps, row.parameters) == ("kd", "kd", 100, 10)


def test_one_seed_has_no_error():
    row = statistics.study_rows(results({"kd": student([0.6], best=[0.7])}))[0]
    assert row.last == statistics.Estimate(0.6, None, (0.6,))
    assert row.best == statistics.Estimate(0.7, None, (0.7,))


def test_differences_are_taken_seed_by_seed():
    # The seeds differ by 0.2, the students by 0.01, -0.01 and 0.03 at each seed:
    # mean 0.01, variance 2 * 0.02**2 / 2, error 0.02 / sqrt(3).
    students = {
        "kd": student([0.5, 0.6, 0.7]),
        "rld": student([0.51, 0.59, 0.73]),
    }
    kd, rld = statistics.study_rows(results(students, reference="kd"))
    assert kd.difference is None and kd.wins is None
    assert rld.difference is not None
    assert rld.difference.mean == pytest.approx(0.01)
    assert rld.difference.error == pytest.approx(0.02 / math.sqrt(3))
    assert rld.wins == 2


def test_a_draw_is_no_win():
    students = {"kd": student([0.5, 0.6]), "same": student([0.5, 0.6])}
    row = statistics.study_rows(results(students, reference="kd"))[1]
    assert row.wins == 0
    assert row.difference == statistics.Estimate(0.0, 0.0, (0.0, 0.0))


def test_a_lost_value_is_not_averaged_away():
    row = statistics.study_rows(results({"kd": student([0.5, None])}))[0]
    assert math.isnan(row.last.mean) and math.isnan(row.last.error)


def test_curves_follow_names_seeds_and_the_later_of_two_lines():
    metrics = [
        {"step": 20, "time": 0.0, "test_top1/a/b/1": 0.3, "test_top1/a/b/2": None},
        {"step": 10, "time": 0.0, "test_top1/a/b/1": 0.1, "test_top1/kd/1": 0.9},
        {"step": 10, "time": 1.0, "test_top1/a/b/1": 0.2, "test_top1/a/b/2": 0.4},
        {"step": 30, "time": 2.0, "test_top5/a/b/1": 0.8, "steps_per_s": 5.0},
    ]
    names = ["kd", "a/b", "absent"]
    kd, slashed = statistics.learning_curves(metrics, "test_top1", names)
    assert (kd.name, slashed.name) == ("kd", "a/b")
    np.testing.assert_array_equal(kd.steps, [10])
    np.testing.assert_array_equal(slashed.steps, [10, 20])
    np.testing.assert_array_equal(slashed.values, [[0.2, 0.4], [0.3, np.nan]])


def test_worst_classes_and_what_they_are_mistaken_for():
    counts = np.array(
        [
            [6, 1, 3, 0],
            [0, 0, 0, 0],
            [1, 2, 5, 2],
            [0, 0, 0, 4],
        ]
    )
    np.testing.assert_array_equal(
        statistics.class_accuracies(counts), [0.6, np.nan, 0.5, 1]
    )
    worst = statistics.worst_classes(counts, ["a", "b", "c", "d"])
    assert worst == [
        {
            "name": "c",
            "accuracy": 0.5,
            "examples": 10,
            "mistaken": [("b", 0.2), ("d", 0.2), ("a", 0.1)],
        },
        {
            "name": "a",
            "accuracy": 0.6,
            "examples": 10,
            "mistaken": [("c", 0.3), ("b", 0.1)],
        },
        {"name": "d", "accuracy": 1.0, "examples": 4, "mistaken": []},
    ]
    assert statistics.worst_classes(counts, "abcd", number=1) == worst[:1]


def test_equal_networks_share_a_line_and_ratios_are_against_the_teacher():
    teacher = {"model": "big", "parameters": 300, "flops_per_image": 8e6}
    tree = results(
        {
            "kd": student([0.5], parameters=20, flops=2e6),
            "rld": student([0.5], parameters=20, flops=2e6),
            "tiny": student([0.5], model="tiny", parameters=10),
        },
        frozen={"teacher": teacher},
    )
    big, small, tiny = statistics.networks(tree)
    assert (big["role"], big["smaller"], big["cheaper"]) == ("teacher", None, None)
    assert (small["role"], small["smaller"], small["cheaper"]) == ("kd, rld", 15, 4)
    assert (tiny["role"], tiny["smaller"], tiny["cheaper"]) == ("tiny", 30, None)


def test_a_student_may_have_the_name_of_a_network():
    teacher = {"model": "r", "parameters": 10}
    tree = results({"teacher": student([0.5], model="r")}, frozen={"teacher": teacher})
    assert [line["smaller"] for line in statistics.networks(tree)] == [None, 1.0]


def test_without_a_teacher_there_are_no_ratios():
    (line,) = statistics.networks(results({"a": student([0.5]), "b": student([0.6])}))
    assert line["role"] == "all students"
    assert line["smaller"] is None and line["cheaper"] is None
