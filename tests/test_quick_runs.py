"""The quick presets of recognition across resolutions, from command to report."""

import numpy as np
import pytest

from jaxkd.core import checkpoint
from jaxkd.evaluators import test_time_adaptation
from jaxkd.train import train
from tests.test_configs import MODULES

# What a report of the system shows beside the study table.
SHOWN = {
    "crrcd": "Accuracy by resolution",
    "aird": "Batch normalisation adapted at test time",
    "sftn": "Accuracy by resolution",
    "gdrd": "Accuracy by resolution",
    "ipn": "One image of each pair reduced to a side",
    "at_plus": "at_plus+kd",
}


def _smaller(config):
    """Takes fewer characters still: tests are compiled without optimisation."""
    if config.data.name == "glyph100":
        for key, most in (("train", 600), ("per_class", 4), ("test", 300)):
            if key in config.data:
                config.data[key] = most
    for need in config.needs.values():
        _smaller(need)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_quick_preset_trains_its_chain_and_reports(name, tmp_path):
    config = MODULES[name].get_config("quick")
    _smaller(config)
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
    if name == "sftn":  # what is kept of a friendly teacher has no branches
        variables = checkpoint.load_member(tmp_path / "friendly/checkpoints", "last")
        assert set(variables) == {"params", "batch_stats"}
    if name == "aird":
        last = results["students"]["aird"]["last"]
        assert {f"top1 plain: {mode}" for mode in test_time_adaptation.MODES} < set(
            last
        )
        # 300 test images in batches of 250: the padded last batch is left out.
        right = np.array(last["top1 plain: source"]) * 250 / 100
        np.testing.assert_allclose(right, right.round(), atol=1e-6)
        assert any("one-sided" in table["note"] for table in results["tables"])
