"""The quick presets of recognition across resolutions, from command to report."""

import numpy as np
import pytest
from test_configs import MODULES

from jaxkd.train import train

# What a report of the system shows beside the study table.
SHOWN = {
    "horkd": "Accuracy by resolution",
    "crrcd": "Accuracy by resolution",
    "aird": "Batch normalisation adapted at test time",
    "sftn": "Accuracy by resolution",
    "gdrd": "Accuracy by resolution",
    "faces": "Recognition",
    "ipn": "One image of each pair reduced to a side",
    "at_plus": "accuracy",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_quick_preset_trains_its_chain_and_reports(name, tmp_path):
    config = MODULES[name].get_config("quick")
    results = train(config, tmp_path)
    assert set(results["frozen"]) == set(config.needs)
    assert set(results["students"]) == set(config.students)
    for student in results["students"].values():
        scores = [student["last"][results["score"]["name"]], *student["train"].values()]
        assert np.isfinite(np.array(scores)).all()
        assert student["skipped"] == [0]
    for need in config.needs:
        assert (tmp_path / need / "report.html").stat().st_size > 10_000
    assert SHOWN[name] in (tmp_path / "report.html").read_text()
