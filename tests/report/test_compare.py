"""Runs side by side: scores with their errors, and the keys that differ."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxkd
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.writers import Writer, write_json
from jaxkd.report import by_teacher, compare
from jaxkd.report.statistics import estimate, format_estimate
from tests.report.test_page import study_results

TOP1 = {"name": "top1", "label": "top-1 accuracy", "percent": True, "lower": False}


def write_run(folder, *, lr=0.1, better=0.0, teacher=0.899):
    folder.mkdir(parents=True)
    results = study_results() | {"score": TOP1}
    results["frozen"]["teacher"]["top1"] = teacher
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


def test_runs_of_different_teachers_are_drawn_against_the_teacher(folders, tmp_path):
    text = compare.write_comparison(folders, tmp_path / "same.html")
    assert "By the teacher" not in text  # two equal teachers make no axis
    write_run(tmp_path / "wrong/run", better=-0.2, teacher=0.7)
    shutil.move(tmp_path / "wrong/run", tmp_path / "wrong12")
    inputs = [tmp_path / "wrong12", folders[0]]
    text = compare.write_comparison(inputs, tmp_path / "c.html")
    table = text.partition("By the teacher's score")[2].split("\n")
    good, bad = table[3].split(), table[4].split()
    assert good[:2] == ["run", "89.9"] and bad[:2] == ["wrong12", "70.0"]
    assert "62.0" in good and "42.0" in bad  # kd
    assert (tmp_path / "c.html").read_text().count("data:image/png") == 6
    runs = {run.label: run.results for run in compare.read_runs(inputs)}
    runs["run"]["students"]["own"] = runs["run"]["students"]["kd"]
    sweep = by_teacher.collect(runs)
    kd = next(curve for curve in sweep.curves if curve.name == "kd")
    np.testing.assert_allclose(kd.steps, [70.0, 89.9])
    np.testing.assert_allclose(kd.values, [[40, 42, 44], [60, 62, 64]])
    assert sweep.left_out == ["own"]


def test_teachers_without_a_score_make_no_curve():
    first, second = study_results(), study_results()
    for results in (first, second):
        results["score"] = TOP1
    second["frozen"]["teacher"] |= {"top1": None}
    assert by_teacher.collect({"a": first, "b": second}) is None
    second["frozen"]["teacher"] |= {"by_seed": {"top1": [0.5, 0.7]}}
    assert by_teacher.teacher_score(second, "top1").values == (0.5, 0.7)
    assert by_teacher.collect({"a": first, "b": second}).table[2][1].startswith("60.0")
    second["frozen"] = {"assistant": {}, "other": {}}
    assert by_teacher.teacher_score(second, "top1") is None


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


def test_damaged_configurations_are_explained(folders, tmp_path):
    path = folders[1] / "config.json"
    for text in ('{"a":', "[1]", None):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            compare.write_comparison(folders, tmp_path / "c.html")


def test_one_run_by_two_paths_is_one_run(folders, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folders[0])
    for other in (link, Path(os.path.relpath(folders[0]))):
        with pytest.raises(UserError, match="all different"):
            compare.read_runs([folders[0], other])


def test_figures_that_are_left_out_are_named(folders, monkeypatch):
    runs = compare.read_runs(folders)
    assert compare._left_out(runs, None) == []
    monkeypatch.setattr(compare, "_MOST_LINES", 1)
    assert "not drawn: more than 1 lines" in compare._left_out(runs, None)[0]
    runs[1].results["frozen"].clear()
    assert compare._left_out(runs, None)[1].endswith(f"not known of {runs[1].label}.")
