"""Scores of a forgery detector by method, attribute and region, counted by hand."""

import numpy as np
import pytest

from jaxkd.evaluators import face_forgery as evaluator
from jaxkd.losses.label_graph import LabelGraph

NODES = LabelGraph.ffsc().nodes
AGE, POSE = "110000100001", "100001111111"


def truth(codes, methods, unseen, keys=None):
    rows = np.array([[int(c) for c in code] for code in codes], np.int8)
    return evaluator.Truth(
        fake=rows[:, 0] == 1,
        codes=rows,
        method=np.array(methods),
        unseen=np.isin(methods, unseen),
        nodes=NODES,
        levels=(tuple(range(1, 6)), tuple(range(6, 12))),
        keys=keys,
    )


def test_protocols_regions_and_videos():
    known = truth(
        ["0" * 12, "0" * 12, AGE, AGE, POSE, POSE],
        ["real", "real", "blur", "tone", "tone", "sharpen"],
        ["tone", "sharpen"],
        [("real", "a"), ("real", "b"), *[("x", str(i)) for i in range(4)]],
    )
    odds = np.array([-1.0, 0.5, 2.0, 0.0, 1.0, -3.0])
    nodes = np.where(known.codes == 1, 0.9, 0.1).astype(float)
    nodes[0, 6] = 0.8  # an eye where nothing is altered
    found = evaluator.measure(evaluator.Prediction(odds, nodes), known)
    assert found["auc_seen"] == 1
    assert (found["auc_tone"], found["auc_sharpen"]) == (0.75, 0.0)
    assert found["auc_unseen"] == pytest.approx(0.375)
    assert found["auc_worst"] == 0
    assert (found["auc_age"], found["auc_age_unseen"]) == (0.75, 0.5)
    assert found["accuracy"] == pytest.approx(4 / 6)
    # Both of age and one of two real images are right; of pose, one fake of two.
    assert found["accuracy_age"] == pytest.approx(3 / 4)
    assert found["accuracy_pose_unseen"] == pytest.approx(2 / 4)
    assert np.isnan(found["accuracy_gender"])
    scores = {"one": {name: [value] for name, value in found.items()}}
    rows = evaluator._group_table(scores, known).rows
    assert ["age: accuracy", "0.750"] in rows and ["age", "0.750"] in rows
    assert found["video_auc"] == found["auc"]  # every frame is its own video
    # Of the rows without unseen methods: one eye of two is right.
    assert found["f1_eye"] == pytest.approx(2 / 3)
    assert found["f1_skin"] == 1


def test_videos_are_told_apart_by_method_and_name():
    keys = [("real", "v"), ("real", "v"), ("blur", "v"), ("blur", "v"), ("tone", "v")]
    known = truth(["0" * 12] * 2 + [AGE] * 3, [m for m, _ in keys], [], keys)
    odds = np.log(np.array([0.1, 0.7, 0.2, 0.4, 0.9]) / [0.9, 0.3, 0.8, 0.6, 0.1])
    silent = np.full((5, 12), np.nan)
    found = evaluator.measure(evaluator.Prediction(odds, silent), known)
    # Means 0.4 of the real one, 0.3 and 0.9 of two fakes: one of two pairs is right.
    assert found["video_auc"] == pytest.approx(1 / 2)
    assert found["auc"] == pytest.approx(4 / 6)


def test_a_head_without_opinion_has_no_region_scores_and_one_class_no_auc():
    known = truth([AGE, POSE], ["blur", "blur"], [])
    silent = np.full((2, 12), np.nan)
    found = evaluator.measure(evaluator.Prediction(np.array([1.0, 2.0]), silent), known)
    assert np.isnan([found["region_f1"], found["f1_eye"], found["auc"]]).all()
    assert np.isnan(found["auc_unseen"])
    scores = {"binary": {name: [value] for name, value in found.items()}}
    table = evaluator._protocol_table(scores, known)
    assert "All test images are fake" in table.note
    assert table.rows[1][:3] == ["binary", "1.000", "–"]
    assert evaluator._label_table(scores, known).rows[0] == ["F1", "prior"]
