"""Quick presets of super-resolution, text and detection: from command to prediction."""

import csv

import numpy as np
import pytest
from PIL import Image

from jaxkd import predictors
from jaxkd.train import train
from tests.test_configs import MODULES

# Lines of the report beside the study's table, and what a prediction leaves behind.
SHOWN = {
    "mkd": ("features", (20, 14)),
    "kd_ltr": ("bicubic", "text.csv"),
    "msad": ("COCO evaluation", "boxes.csv"),
    "tad_sr": ("one_step", (40, 28)),
    "iris": ("Iris recognition", (40, 28)),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", SHOWN)
def test_a_quick_preset_trains_reports_and_predicts(name, tmp_path):
    if name == "msad":
        pytest.importorskip("pycocotools")
    config = MODULES[name].get_config("quick")
    results = train(config, tmp_path / "run")
    assert set(results["students"]) == set(config.students)
    for student in results["students"].values():
        found = [v for k, v in student["last"].items() if k != "confusion"]
        assert np.isfinite(np.array(student["last"][results["score"]["name"]])).all()
        assert student["skipped"] == [0] and found
    shown, left = SHOWN[name]
    assert shown in (tmp_path / "run/report.html").read_text()

    pixels = np.random.default_rng(0).integers(0, 256, (7, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    run, output = tmp_path / "run", tmp_path / "out"
    predictor = predictors.name_of(run)
    options = {"student": list(config.students)[-1]}
    predictors.predict(predictor, run, [str(tmp_path / "a.png")], str(output), options)
    if isinstance(left, tuple):
        with Image.open(output / "a.png") as picture:
            assert picture.size == left
    else:
        with (output / left).open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0][0] == "file" and (len(rows) == 2 or left == "boxes.csv")
