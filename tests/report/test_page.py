"""The table and the page of finished runs, from files as training writes them."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.core.writers import Writer, write_json
from jaxkd.report import page as report
from jaxkd.report import study_table

CLASSES = ["<script>alert(1)</script>", "$", "&amp", "ΞЩ"]
FIGURES = ["accuracy", "classes", "confusion", "final", "loss"]


def student(top1, method):
    return {
        "method": method,
        "options": {"temperature": 4.0},
        "model": "resnet8",
        "parameters": 22924,
        "flops_per_image": 2.1e6,
        "steps": 1600,
        "optim": {"lr": 0.5},
        "last": {"top1": top1, "top5": top1, "loss": top1},
        "best": {"top1": [value + 0.01 for value in top1], "step": [1200] * len(top1)},
    }


def study_results():
    """Three students, three seeds, a teacher; accuracies in tenths of a percent."""
    teacher = {
        "model": "resnet8",
        "parameters": 321348,
        "flops_per_image": 1.2e7,
        "path": "teacher",
        "hash": "9f31",
        "run": {
            "name": "resnet8",
            "date": "2026-01-01T00:00:00+00:00",
            "command": "python -m jaxkd.main --config=teacher.py",
            "version": "0.1.0",
            "commit": None,
        },
        "top1": 0.899,
    }
    return {
        "finished": True,
        "name": "rld",
        "provenance": {
            "date": "2026-01-02T03:04:05+00:00",
            "command": "python -m jaxkd.main --config=configs/rld.py",
            "version": "0.2.0",
            "commit": "c0ffee+",
        },
        "options": {"data": {"name": "glyphs", "size": 16}},
        "data": {
            "name": "glyphs",
            "num_classes": 4,
            "image_shape": [16, 16, 3],
            "train_examples": 20000,
            "test_examples": 4000,
            "class_names": CLASSES,
        },
        "seeds": [1, 2, 3],
        "reference": "kd",
        "steps": 1600,
        "unit": "steps",
        "batch_size": 100,
        "seconds": 231.0,
        "environment": {"jax": "0.10.2", "platform": "cpu", "devices": 1},
        "frozen": {"teacher": teacher},
        "students": {
            "ce": student([0.55, 0.57, 0.56], "ce"),
            "kd": student([0.60, 0.62, 0.64], "kd"),
            "<b>": student([0.61, 0.61, 0.67], "rld"),
        },
    }


def single_results():
    """What training a teacher leaves: one student, one seed, nothing frozen."""
    results = study_results()
    students = {"supervised": student([0.875], "supervised")}
    del results["provenance"], results["environment"], results["seconds"]
    return results | {
        "seeds": [1],
        "reference": None,
        "frozen": {},
        "students": students,
    }


def write_run(workdir, results):
    write_json(workdir / "results.json", results)
    write_json(workdir / "config.json", {"optim": {"lr": 0.5}, "note": "</pre><i>"})
    with Writer(workdir, True) as writer:
        for step in (800, 1600):
            scalars = {}
            for name in results["students"]:
                for seed in results["seeds"]:
                    scalars[f"test_top1/{name}/{seed}"] = step / 3200
                    scalars[f"train_loss/{name}/{seed}"] = 800 / step
            writer.write_scalars(step, scalars)
    counts = np.array([[8, 2, 0, 0], [0, 9, 1, 0], [5, 0, 1, 4], [0, 0, 0, 10]])
    np.savez(workdir / "confusion.npz", **dict.fromkeys(results["students"], counts))


@pytest.fixture(scope="module")
def study_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    write_run(workdir, study_results())
    assert report.write_report(workdir) == workdir / "report.html"
    return workdir


class Page(HTMLParser):
    """Collects tags with their attributes, text, and table rows."""

    VOID = ("meta", "img", "source")

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text, self.rows = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if any(tag in ("td", "th") for tag in self.open):
            self.rows[-1][-1] += data


def test_table_of_several_seeds():
    lines = study_table.format_table(study_results()).splitlines()
    assert lines[0] == (
        "rld: 3 students × 3 seeds on glyphs (4 classes, images of 16×16×3, 20,000 "
        "for training and 4,000 for testing), 1,600 steps of 100 images in "
        "3 min 51 s on 1 device (cpu)."
    )
    # By hand: standard deviation 1, 2 and sqrt(12) over the root of 3; differences
    # to kd of -5, -5, -8 (ce) and +1, -1, +3 (<b>).
    assert [" ".join(line.split()) for line in lines[2:7]] == [
        "last best last − kd wins steps parameters",
        "teacher (resnet8) 89.9 321,348",
        "ce 56.0 ± 0.6 57.0 ± 0.6 −6.0 ± 1.0 0 of 3 1,600 22,924",
        "kd (reference) 62.0 ± 1.2 63.0 ± 1.2 1,600 22,924",
        "<b> 63.0 ± 2.0 64.0 ± 2.0 +1.0 ± 1.2 2 of 3 1,600 22,924",
    ]
    assert len({len(line) for line in lines[2:7]}) == 1  # right-aligned columns
    notes = "\n".join(lines[7:])
    assert "standard error of the mean over n = 3 seeds" in notes
    assert "chosen on the test set" in notes and "last − kd" in notes


def test_seeds_that_are_one_are_named():
    results = study_results()
    for name, student in results["students"].items():
        student["train"] = {"loss": [0.5, 0.5, 0.6 if name == "ce" else 0.5]}
    text = study_table.format_table(results)
    assert "All seeds of kd, <b> are one" in text
    results["students"]["kd"]["train"] = results["students"]["<b>"]["train"] = {}
    assert "All seeds" not in study_table.format_table(results)


def test_students_near_chance_are_named():
    results = study_results()
    assert "Near chance" not in study_table.format_table(results)
    # Of 4,000 examples of four classes, two standard errors are 1.4 %.
    results["students"]["ce"]["last"]["top1"] = [0.25, 0.26, 0.28]
    results["students"]["kd"]["last"]["top1"] = [0.25, 0.27, 0.28]
    text = study_table.format_table(results)
    assert "Near chance (25.0, give or take 1.4 of 4,000 test examples)" in text
    assert "little was learnt: ce. A smaller config.optim.lr" in text
    results["data"]["num_classes"] = 0
    assert "Near chance" not in study_table.format_table(results)


def test_table_shows_the_spread_of_networks_that_each_seed_has_of_its_own():
    results = study_results()
    assistant = {**results["frozen"]["teacher"], "top1": 0.55}
    assistant["by_seed"] = {"top1": [0.54, 0.55, 0.56]}
    results["frozen"]["assistant"] = assistant
    lines = study_table.format_table(results).splitlines()
    assert " ".join(lines[4].split()) == "assistant (resnet8) 55.0 ± 0.6 321,348"


def test_table_of_one_seed_has_no_errors_and_no_empty_columns():
    text = study_table.format_table(single_results())
    lines = [line.split() for line in text.splitlines()]
    assert lines[2] == ["last", "best", "steps", "parameters"]
    assert lines[3] == ["supervised", "87.5", "88.5", "1,600", "22,924"]
    assert "±" not in text and "wins" not in text
    assert "1 student × 1 seed on" in text and "spread between seeds" in text


def test_table_without_best_says_nothing_about_it():
    results = single_results()
    del results["students"]["supervised"]["best"]
    text = study_table.format_table(results)
    assert "best" not in text


@pytest.mark.parametrize(("examples", "cell"), [(4000, "12.3"), (10000, "12.35")])
def test_decimals_follow_the_size_of_the_test_set(examples, cell):
    results = single_results()
    results["data"]["test_examples"] = examples
    results["students"]["supervised"]["last"]["top1"] = [0.12345]
    assert cell in study_table.format_table(results).split()


def test_lost_values_are_dashes():
    results = study_results()
    results["students"]["ce"]["last"]["top1"] = [0.5, None, 0.5]
    line = study_table.format_table(results).splitlines()[4].split()
    assert line[:2] == ["ce", "–"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"),
        (950, "950"),
        (999.6, "1 k"),
        (2.1e6, "2.1 M"),
        (4.12e9, "4.12 G"),
        (1.5e13, "15 T"),
    ],
)
def test_magnitudes(number, text):
    assert study_table.magnitude(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "1 min 00 s"), (7.2, "7 s"), (7261, "2 h 01 min")]
)
def test_durations(seconds, text):
    assert f" in {text} on" in study_table.setting(
        study_results() | {"seconds": seconds}
    )


def test_all_figures_are_pictures_in_both_themes(study_run):
    names = sorted(path.name for path in (study_run / "figures").iterdir())
    assert names == sorted(f"{n}{t}.png" for n in FIGURES for t in ("", "-dark"))
    for path in (study_run / "figures").iterdir():
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_page_is_one_file_with_the_figures_inside(study_run):
    page = Page(study_run / "report.html")
    links = [
        attrs.get("src") or attrs.get("srcset")
        for tag, attrs in page.tags
        if tag in ("img", "source")
    ]
    assert len(links) == 2 * len(FIGURES)
    embedded = set()
    for link in links:
        kind, data = link.split(",")
        assert kind == "data:image/png;base64"
        embedded.add(base64.b64decode(data))
    files = {path.read_bytes() for path in (study_run / "figures").iterdir()}
    assert embedded == files
    with Image.open(io.BytesIO(embedded.pop())) as image:
        image.verify()
    text = (study_run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)


def test_names_cannot_inject_markup(study_run):
    page = Page(study_run / "report.html")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b", "i"}
    text = "".join(page.text)
    for name in [*CLASSES, "<b>", "</pre><i>"]:
        assert name in text


def test_page_shows_the_study(study_run):
    page = Page(study_run / "report.html")
    assert ["teacher (resnet8)", "89.9", "", "", "", "", "321,348"] in page.rows
    assert [
        "<b>", "63.0 ± 2.0", "64.0 ± 2.0", "+1.0 ± 1.2", "2 of 3", "1,600", "22,924",
    ] in page.rows  # fmt: skip
    assert ["kd", "60.0", "62.0", "64.0"] in page.rows
    assert ["&amp", "10.0", "10", f"{CLASSES[0]} (50.0), ΞЩ (40.0)"] in page.rows
    assert ["all students", "resnet8", "22,924", "2.1 M", "14.0×", "5.7×"] in page.rows
    best = [attrs for tag, attrs in page.tags if tag == "tr" and attrs]
    assert [attrs["class"] for attrs in best] == ["frozen", "best"]
    text = " ".join("".join(page.text).split())
    assert "python -m jaxkd.main --config=configs/rld.py" in text
    assert "0.10.2" in text and "content hash 9f31" in text


def test_one_student_of_one_seed_has_a_page_too(tmp_path):
    write_run(tmp_path, single_results())
    page = Page(report.write_report(tmp_path))
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert "final.png" not in names  # a single dot says nothing
    assert {"accuracy.png", "loss.png", "classes.png", "confusion.png"} <= names
    assert ["supervised", "resnet8", "22,924", "2.1 M"] in page.rows
    text = "".join(page.text)
    assert "standard error" not in text and "teacher" not in text
    assert "To run it again" not in text and "Environment" not in text


@pytest.mark.parametrize(
    ("missing", "heading"),
    [
        ("metrics.jsonl", "Accuracy during training"),
        ("metrics.jsonl", "Training loss"),
        ("confusion.npz", "Classes, student"),
        ("config.json", "Configuration"),
    ],
)
def test_missing_parts_leave_out_their_section(study_run, tmp_path, missing, heading):
    assert heading in "".join(Page(study_run / "report.html").text)
    for name in ("results.json", "metrics.jsonl", "confusion.npz", "config.json"):
        if name != missing:
            shutil.copy(study_run / name, tmp_path)
    assert heading not in "".join(Page(report.write_report(tmp_path)).text)


def test_confusion_of_another_student_is_not_shown_as_the_best(tmp_path):
    write_json(tmp_path / "results.json", study_results())
    np.savez(tmp_path / "confusion.npz", kd=np.eye(4, dtype=np.int64))
    assert "Classes, student" not in "".join(Page(report.write_report(tmp_path)).text)


def test_diverged_students_are_reported(tmp_path):
    results = study_results()
    results["students"]["<b>"]["last"]["top1"] = [None] * 3
    write_run(tmp_path, results)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        record |= {key: None for key in record if "<b>" in key}
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(text)
    page = Page(report.write_report(tmp_path))
    assert "Classes, student kd" in "".join(page.text)
    assert any(row[:2] == ["<b>", "–"] for row in page.rows)


def test_folder_without_results_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=f"jaxkd.main.*--workdir={tmp_path}"):
        report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_page_shows_where_the_results_are_from(study_run):
    text = " ".join(" ".join(Page(study_run / "report.html").text).split())
    assert "2026-01-02T03:04:05+00:00, jaxkd 0.2.0, commit c0ffee+ . To run" in text
    assert "python -m jaxkd.main --config=configs/rld.py" in text
    assert "resnet8, 2026-01-01T00:00:00+00:00, jaxkd 0.1.0, python -m" in text
    assert "temperature=4.0" in text and "name=glyphs, size=16" in text


def test_a_tie_is_bold_in_neither_row(tmp_path):
    """Means that are printed alike: 63.0, of other digits or of the same ones."""
    results = study_results()
    results["students"]["kd"]["last"]["top1"] = [0.6301, 0.6299, 0.6300]
    write_run(tmp_path, results)
    page = Page(report.write_report(tmp_path))
    rows = [attrs.get("class") for tag, attrs in page.tags if tag == "tr" and attrs]
    assert rows == ["frozen"]
    assert "is a tie of kd, <b>: none is bold" in " ".join(page.text)
