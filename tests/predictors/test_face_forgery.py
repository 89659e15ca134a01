"""Scoring of people's own faces: rows, statuses, words and pictures."""

import csv

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.predictors import face_forgery as predictor
from jaxkd.predictors import face_forgery_page

GRAPH = LabelGraph.ffsc()


def classify(images):
    """Calls red faces fake, with an altered mouth."""
    red = images[..., 0].mean(axis=(1, 2)) / 255
    nodes = np.zeros((len(images), 12))
    nodes[:, [0, 2, 9]] = red[:, None] * [1.0, 0.9, 0.8]
    return nodes


def test_every_file_has_a_row_and_a_status(tmp_path, capsys):
    Image.new("RGB", (80, 90), (255, 0, 0)).save(tmp_path / "fake.png")
    Image.new("L", (20, 20), 10).save(tmp_path / "tiny.png")
    Image.new("CMYK", (70, 70)).save(tmp_path / "print.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "fake.png").read_bytes()[:50])
    out = tmp_path / "out"
    (out / "faces").mkdir(parents=True)
    files = sorted(p for p in tmp_path.iterdir() if p.is_file())
    found = predictor._score(files, 0, classify, 16, GRAPH, out, 0.5)
    assert [f.status for f in found] == ["unreadable", "ok", "ok", "small"]
    assert found[1].explanation == "fake 1.00; expression 0.90; mouth"
    assert found[3].explanation == "real 0.96"
    assert "cut.png cannot be read" in capsys.readouterr().err
    predictor._write_scores(out / "scores.csv", found, GRAPH)
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert (rows[0]["fake"], rows[1]["mouth"]) == ("", "0.800000")
    predictor._write_folders(out / "folders.csv", [f for f in found if not f.error])
    folder = list(csv.DictReader((out / "folders.csv").read_text().splitlines()))
    mean = np.mean([f.fake for f in found if not f.error])
    assert [float(row["fake"]) for row in folder] == [pytest.approx(mean, abs=1e-6)]
    page = face_forgery_page.page(found, "A <run>", 0.5)
    assert "A &lt;run&gt;" in page
    assert page.index("fake.png") < page.index("tiny.png")  # the most suspicious first
    with Image.open(out / "faces" / found[1].name) as picture:
        pixels = np.array(picture).astype(int)
    outlined = np.abs(pixels - [255, 0, 0]).sum(axis=-1) > 0
    assert 0 < outlined.mean() < 0.1
    lower = outlined[len(outlined) // 2 :]
    assert lower.sum() == outlined.sum()  # the mouth is below the middle


def test_words():
    silent = [0.7, *[float("nan")] * 11]
    assert predictor.explain(silent, GRAPH, 0.5) == "fake 0.70"
    assert predictor.explain([0.2, *[0.9] * 11], GRAPH, 0.5) == "real 0.80"


def test_an_impossible_threshold_is_refused(tmp_path):
    with pytest.raises(UserError, match="threshold is 1"):
        predictor.predict(tmp_path, [tmp_path], tmp_path, threshold=1)
