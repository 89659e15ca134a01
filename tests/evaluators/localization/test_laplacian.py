"""The Laplacian is tuned on tampered images, wherever in the training set they lie."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxkd.evaluators import localization
from jaxkd.evaluators.localization import laplacian


def example(forged):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    if forged:
        image[4:12, 4:12], mask[4:12, 4:12] = 128, 255
    label = np.int32(forged)
    return {"image": image, "target_mask": mask, "label": label}


def study(labels):
    source = [example(forged) for forged in labels]
    dataset = SimpleNamespace(train=lambda seed: source, prepare_test=lambda one: one)
    return SimpleNamespace(dataset=dataset, seeds=(1,))


@pytest.mark.parametrize("authentic", [0, 310])
def test_authentic_images_may_come_first(authentic):
    truth = {"image": np.stack([example(True)["image"]])}
    found = laplacian.tuned(study([False] * authentic + [True] * 40), truth)
    mask = example(True)["target_mask"] > 0
    assert laplacian.fast_iou(found.maps >= found.threshold, mask[None])[0] > 0.5


def test_without_tampered_images_there_is_no_baseline():
    assert laplacian.tuned(study([False] * 5), {"image": []}) is None


def test_without_tampered_test_images_the_report_says_so(monkeypatch):
    truth = {"label": np.zeros(3, np.int32)}
    monkeypatch.setattr(localization, "_collect", lambda trained: truth)
    report = localization.evaluate(SimpleNamespace())
    (table,) = report.tables
    assert table.rows[1:] == [["authentic", "3"]] and not report.scores
    assert "nothing to find" in table.note
