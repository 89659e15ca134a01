"""Runs side by side: scores with their errors, and the keys that differ."""

import re
from pathlib import Path

import pytest

import jaxkd
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.writers import Writer, write_json
from jaxkd.report import compare
from jaxkd.report.statistics import estimate, format_estimate
from tests.report.test_page import study_results

TOP1 = {"name": "top1", "label": "top-1 accuracy", "percent": True, "lower": False}


def write_run(folder, *, lr=0.1, better=0.0):
    folder.mkdir(parents=True)
    results = study_results() | {"score": TOP1}
    for student in results["students"].values():
        student["last"]["top1"] = [v + better for v in student["last"]["top1"]]
    write_json(folder / "results.json", results)
    config = configs.default()
    config.optim.lr = lr
    config.workers = 3 if better else 4  # how a run is executed is no difference
    write_json(folder / "config.json", configs.resolved(config))
    with Writer(folder, True, ()) as writer:
        for step in (800, 1600):
            scalars = {f"test_top1/kd/{s}": 0.5 + better for s in (1, 2, 3)}
            writer.write_scalars(step, scalars | {"train_loss/kd/1": 1.0})
    return results


@pytest.fixture
def folders(tmp_path):
    write_run(tmp_path / "a/run")
    write_run(tmp_path / "b/run", lr=0.3, better=0.02)
    return [tmp_path / "a/run", tmp_path / "b/run"]


def test_the_page_has_table_curves_and_differences(folders, tmp_path):
    text = compare.write_comparison(folders, tmp_path / "out/c.html")
    page = (tmp_path / "out/c.html").read_text()
    expected = format_estimate(estimate([0.62, 0.64, 0.66]), 1)
    for shown in (text, page):
        assert expected in shown and "b/run" in shown and "teacher (resnet8)" in shown
    assert page.count("data:image/png") == 4  # two figures, each light and dark
    assert re.search(r"<td>optim.lr</td>\s*<td[^>]*>0.1</td>\s*<td[^>]*>0.3</td>", page)
    assert "workers" not in page


def test_differences_of_equal_configurations_are_none(folders):
    runs = compare.read_runs(folders)
    assert compare.compare_configs(runs)[1:] == [["optim.lr", "0.1", "0.3"]]
    same = [runs[0], runs[0]._replace(label="again")]
    assert compare.compare_configs(same) == [["", "a/run", "again"]]


def test_mistakes(folders, tmp_path):
    with pytest.raises(UserError, match="two or more runs"):
        compare.write_comparison(folders[:1], tmp_path / "c.html")
    with pytest.raises(UserError, match=r"expected a file such as c\.html"):
        compare.write_comparison(folders, tmp_path / "c.txt")
    (folders[1] / "results.json").unlink()
    with pytest.raises(UserError, match=r"no results\.json"):
        compare.write_comparison(folders, tmp_path / "c.html")


def test_every_page_fits_a_phone():
    """A viewport, and tables that scroll by themselves: in whatever writes a page."""
    pages = 0
    for path in Path(jaxkd.__file__).parent.rglob("*"):
        if path.suffix not in (".py", ".j2"):
            continue
        text = path.read_text(encoding="utf-8")
        if "<!doctype html>" in text:
            pages += 1
            assert re.search(r"<meta name=['\"]viewport['\"]", text), path
        for before in text.split("<table")[:-1]:
            assert re.search(r"class=['\"]wide['\"]>\s*$", before), path
    assert pages >= 9
