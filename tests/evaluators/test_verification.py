"""The evaluator of verification on networks whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxkd import datasets, views
from jaxkd.evaluators import verification
from jaxkd.evaluators.base import Member, TrainedStudy
from jaxkd.methods import handwriting_pairs
from jaxkd.report.style import order_students


def _study(tmp_path, networks):
    data = datasets.load(
        "handwriting", task="pairs", size=16, writers=8, test_writers=4, samples=4
    )

    def network(answer):
        def predict(batch):
            ink = np.asarray(batch["pair"], float)
            rows = ink.reshape(len(ink), 2, -1)
            logits = answer(batch, rows)
            rows = 0 * rows if answer is dead else rows
            features = {"pooled": rows}
            return {"logits": np.stack([0 * logits, logits], 1), "features": features}

        return predict

    members = [
        Member(name, seed, {}, {}, network(answer))
        for name, answer in networks.items()
        for seed in (0, 1)
    ]
    order = order_students(
        dict.fromkeys(networks, "handwriting_pairs"), next(iter(networks))
    )
    (tmp_path / "figures").mkdir()
    return TrainedStudy(
        SimpleNamespace(),
        tuple(members),
        (0, 1),
        data,
        views.build("handwriting", data.info, views=0),
        16,
        tmp_path / "figures",
        order,
    )


def dead(batch, rows):
    """An encoder without an output, and a head that accepts everything."""
    return np.ones(len(rows))


def test_a_dead_encoder_is_chance_and_ends_nothing(tmp_path):
    pytest.importorskip("skimage")
    report = verification.evaluate(_study(tmp_path, {"dead": dead}))
    found = report.scores["dead"]
    for name in ("auc", "eer", "cosine_auc", "cosine_accuracy"):
        assert found[name] == [50, 50]
    assert found["gap"] == [0, 0]
    # No words can be laid out by features that are all the same.
    assert [figure.name for figure in report.figures] == ["verification"]


def _by_threshold(dataset):
    """Accuracy of cosines of centred pixels, the threshold by trying all of them."""
    accuracies = []
    for seed in (0, 1):
        train, cosines = dataset.train(seed), []
        inks = [one.words.image.astype(float) for one in (train, dataset.test)]
        inks = [ink.reshape(len(ink), -1) for ink in inks]
        for ink, one in zip(inks, (train, dataset.test), strict=True):
            rows = ink - inks[0].mean(0)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            cosines.append(np.sum(rows[one.table.first] * rows[one.table.second], 1))
        kinds = train.arrays["label"] == 1
        values = np.sort(cosines[0])
        tried = [-2.0, *(values[1:] + values[:-1]) / 2, 2.0]
        threshold = max(tried, key=lambda t: np.mean((cosines[0] > t) == kinds))
        same = dataset.test.arrays["label"] == 1
        accuracies.append(100 * np.mean((cosines[1] > threshold) == same))
    return accuracies


def _check_intervals(rows):
    """Of an all-seeing head and of pixels, whose cosines are the same for both."""
    (oracle, right, nothing, cosine, none), (_, own, gain, same, tie) = rows
    assert oracle == "oracle" and nothing == none == ""  # it is the reference
    assert right == "100.0 (100.0 to 100.0)"
    # What is lost to one who is always right is the error, bounds included.
    numbers = [
        [float(x) for x in cell[:-1].replace(" (", " to ").split(" to ")]
        for cell in (own, gain)
    ]
    assert 50 <= numbers[0][0] < 100
    np.testing.assert_allclose(numbers[1], np.subtract(numbers[0], 100), atol=0.11)
    assert cosine == same and tie == "0.0 (0.0 to 0.0)"


def test_known_answers(tmp_path):
    pytest.importorskip("skimage")

    def all_seeing(batch, rows):
        return np.where(np.asarray(batch["label"]) == 1, 3.0, -3.0)

    def of_pixels(batch, rows):
        return 0.1 - ((rows[:, 0] - rows[:, 1]) ** 2).mean(1)

    study = _study(tmp_path, {"oracle": all_seeing, "pixels": of_pixels})
    report = verification.evaluate(study)
    oracle, pixels = report.scores["oracle"], report.scores["pixels"]
    for name in ("precision", "recall", "auc"):
        assert oracle[name] == [100, 100]
    assert oracle["eer"] == [0, 0]
    assert 50 < pixels["auc"][0] < 100
    # The same pixels are both students' features.
    assert oracle["gap"] == pixels["gap"] and oracle["gap"][0] > 0
    # What the last evaluation measures is not given a second time.
    assert not set(oracle) & set(handwriting_pairs.Evaluation.__annotations__)
    assert oracle["cosine_accuracy"] == pixels["cosine_accuracy"]
    assert oracle["cosine_accuracy"] == _by_threshold(study.dataset)
    verified, intervals, baselines = report.tables
    assert [row[0] for row in verified.rows[1:]] == ["oracle", "pixels"]
    _check_intervals(intervals.rows[1:])
    assert [row[0] for row in baselines.rows[1:]] == list(verification.HAND_CRAFTED)
    # Raw pixels as a baseline rank pairs as the network of pixels does, but for
    # the rounding of grey values.
    assert abs(float(baselines.rows[1][2]) - pixels["auc"][0]) < 0.2
    for figure in report.figures:
        assert (study.folder / f"{figure.name}.png").stat().st_size > 1000
