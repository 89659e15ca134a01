"""The quick preset of face forgery, from command to report and to predictions."""

import csv

import numpy as np
import pytest
from PIL import Image

from jaxkd.core import config as configs
from jaxkd.core.writers import read_metrics
from jaxkd.datasets import forged_faces
from jaxkd.predictors import face_forgery as predictor
from jaxkd.train import train
from tests.test_configs import MODULES


@pytest.mark.nightly
def test_the_quick_preset_trains_reports_and_predicts(tmp_path):
    config = MODULES["face_forgery"].get_config("quick")
    kept = {name: config.students[name] for name in ("binary", "graph", "auto")}
    config.students = configs.students({n: dict(one) for n, one in kept.items()})
    run = tmp_path / "run"
    results = train(config, run)
    for name, student in results["students"].items():
        assert np.isfinite(student["last"]["auc_unseen"]).all()
        assert student["skipped"] == [0]
        (score,) = student["last"]["region_f1"]
        assert (score is None or np.isnan(score)) == (name == "binary")
    page = (run / "report.html").read_text()
    assert "By method and attribute" in page and "What was altered" in page
    logged = [row for row in read_metrics(run) if "train_weight1/auto/1" in row]
    weights = [[row[f"train_weight{i}/auto/1"] for i in (1, 2, 3)] for row in logged]
    assert np.abs(np.array(weights[-1]) - 1).max() > 1e-3  # Auto-lambda moved them
    files = tmp_path / "crops"
    files.mkdir()
    drawn = forged_faces.load(size=16, train=4, test=1).test.arrays["image"]
    for place, image in enumerate(drawn[:5]):
        Image.fromarray(image).save(files / f"{place}.png")
    (files / "not.png").write_bytes(b"no image")
    text = predictor.predict(run, [files], tmp_path / "out", student="graph")
    assert "5 files" in text and "1 could not be scored" in text
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == [*["small"] * 5, "unreadable"]
    for row in rows[:5]:  # consistent by construction
        assert all(float(row[n]) <= float(row["fake"]) + 1e-6 for n in ("age", "eye"))
