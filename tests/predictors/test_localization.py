"""Marking photographs of any size: windows, what is written, what is refused."""

import csv
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.methods.defi import IOU
from jaxkd.predictors import localization, localization_page

WINDOW = 16
INFO = Info("x", 2, (WINDOW, WINDOW, 3), (0.5,) * 3, (0.5,) * 3, ("a", "b"))


def brightness(images):
    """A localiser that sees each pixel by itself."""
    assert images.dtype == np.uint8 and len(images) <= 16
    return images[..., 0] / 255.0


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("size", [(16, 16), (40, 57), (16, 33), (9, 40), (5, 7)])
def test_windows_put_together_are_the_whole(size, overlap):
    image = photo(*size)
    whole = localization.tiled(image, brightness, WINDOW, overlap)
    np.testing.assert_allclose(whole, image[..., 0] / 255, atol=1e-12)


def test_windows_fade_towards_their_borders():
    """Where two windows disagree the one whose middle is nearer counts more."""

    def left(images):
        return np.where(np.arange(len(images))[:, None, None] == 0, 1.0, 0.0) * np.ones(
            images.shape[:3]
        )

    line = localization.tiled(photo(16, 24), left, WINDOW, 0.5)[8]
    np.testing.assert_allclose(line[:8], 1)
    assert (np.diff(line[8:16]) < 0).all() and line[8] > 0.95 and line[15] < 0.05
    np.testing.assert_allclose(line[16:], 0)
    np.testing.assert_allclose(line[8:16] + line[15:7:-1], 1, atol=1e-4)


def test_squeezing_enlarges_again():
    image = np.zeros((64, 32, 3), np.uint8)
    image[:32] = 255
    seen = localization.squeezed(image, brightness, WINDOW)
    assert seen.shape == (64, 32)
    assert (seen[:20] > 0.99).all() and (seen[44:] < 0.01).all()


@pytest.fixture
def run(monkeypatch):
    """A finished run whose network sees brightness."""
    results = {
        "name": "run",
        "score": IOU._asdict(),
        "students": {"a": {"last": {"iou": [0.1]}}},
    }
    restored = types.SimpleNamespace(name="a", results=results, info=INFO, apply=None)
    monkeypatch.setattr(localization, "restore", lambda *a: restored)
    monkeypatch.setattr(localization, "in_batches", lambda forward, size: brightness)


def test_what_is_written(tmp_path, run):
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    image = np.zeros((40, 50, 3), np.uint8)
    image[10:20, 10:30] = 250
    Image.fromarray(image).save(photos / "a.png")
    Image.fromarray(photo(8, 9)).save(photos / "more" / "a.png")
    Image.fromarray(image).save(photos / "b.jpg", quality=95)
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    text = localization.predict(tmp_path, [photos], tmp_path / "out")
    out = tmp_path / "out"
    assert "3 images" in text and "cut.png cannot be read" in text
    mask = pixels(out / "masks" / "a.png")
    np.testing.assert_array_equal(mask, np.where(image[..., 0] > 0, 255, 0))
    shade = pixels(out / "maps" / "a.png")
    np.testing.assert_array_equal(shade, image[..., 0])
    names = {p.name for p in (out / "overlays").iterdir()}
    assert names == {"a.png", "a-2.png", "b.png"}
    with Image.open(out / "masks" / "a-2.png") as small:
        assert small.size == (9, 8)
    with (out / "scores.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    one = rows[str(photos / "a.png")]
    assert float(one["marked"]) == 0.1 and float(one["score"]) > 0.97
    assert (one["width"], one["height"]) == ("50", "40")
    bad = rows[str(photos / "cut.png")]
    assert bad["score"] == "" and "cannot be read" in bad["error"]
    assert len(json.loads((out / "scores.json").read_text())) == 4
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 3 and "overlays/a-2.png" in page


def test_names_that_are_not_utf_8(tmp_path, run):
    photos = tmp_path / "photos"
    photos.mkdir()
    odd = photos / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(photo(8, 9)).save(odd)
    odd.with_suffix(".jpg").write_bytes(b"no image")
    text = localization.predict(tmp_path, [photos], tmp_path / "out")
    assert text.startswith("1 image ->") and "caf\\udce9.jpg" in text
    written = [path.name for path in (tmp_path / "out" / "masks").iterdir()]
    assert written == ["caf_xe9-2.png"]
    found = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert [one["file"] for one in found] == [
        f"{photos}/caf\\xe9.{ending}" for ending in ("jpg", "png")
    ]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "overlays/caf_xe9-2.png" in page


def test_names_are_escaped(tmp_path, run):
    path = tmp_path / "<b>&.png"
    Image.fromarray(photo(16, 16)).save(path)
    localization.predict(tmp_path, [path], tmp_path / "out", inference="resize")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page and "%3Cb%3E" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference": "whole"}, "tile"),
        ({"overlap": 1.0}, "overlap"),
        ({"threshold": 0}, "threshold"),
        ({"recall": 0}, "recall"),
    ],
)
def test_impossible_options(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        localization.predict(tmp_path, [tmp_path], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def judged_photos(tmp_path):
    """Two forged photographs and two authentic ones, one of them bright in part."""
    top = tmp_path / "photos"
    for part in ("images", "labels", "authentic"):
        (top / part).mkdir(parents=True)
    values = {"a": 200, "b": 100}
    for name, value in values.items():
        image, mask = np.full((20, 30, 3), 10, np.uint8), np.zeros((20, 30), np.uint8)
        mask[4:14, 5:15] = 255
        image[mask > 0] = value
        image[0, :6] = 220  # six of 500 other pixels
        Image.fromarray(image).save(top / "images" / f"{name}.png")
        Image.fromarray(mask).save(top / "labels" / f"{name}_mask.png")
    dark, partly = np.full((2, 20, 20, 3), 10, np.uint8)
    partly[:5] = 210
    Image.fromarray(dark).save(top / "authentic" / "c.png")
    Image.fromarray(partly).save(top / "authentic" / "d.png")
    return top


@pytest.mark.parametrize(("recall", "threshold"), [(0.5, 200 / 255), (0.6, 100 / 255)])
def test_false_alarms_are_counted_at_a_recall(
    tmp_path, run, judged_photos, recall, threshold
):
    inputs = [judged_photos / "images", judged_photos / "authentic"]
    out = tmp_path / "out"
    text = localization.predict(
        tmp_path, inputs, out, truth=str(judged_photos), recall=recall
    )
    found = json.loads((out / "truth.json").read_text())
    assert found["threshold"] == pytest.approx(threshold, abs=1e-6)
    assert found["recall"] == recall
    rows = {Path(row["file"]).stem: row for row in found["images"]}
    assert rows["a"]["recall"] == 1 and rows["a"]["iou"] == pytest.approx(100 / 106)
    assert rows["b"]["recall"] == (recall > 0.5)
    assert rows["a"]["false_alarms"] == pytest.approx(6 / 500)
    assert rows["c"]["false_alarms"] == 0 and rows["d"]["false_alarms"] == 0.25
    assert rows["c"]["recall"] is None and rows["c"]["tampered"] == 0
    assert found["false_alarms_authentic"] == 0.125 == found["worst_authentic"] / 2
    assert "12.5% of the pixels on average, 25.0% on the worst" in text
    with (out / "truth.csv").open() as file:
        assert [row["recall"] for row in csv.DictReader(file)][2:] == ["", ""]


def test_masks_have_to_know_every_input(tmp_path, run, judged_photos):
    Image.fromarray(photo(16, 16)).save(tmp_path / "other.png")
    truth = str(judged_photos)
    with pytest.raises(UserError, match=r"other.png is not among"):
        localization.predict(
            tmp_path, [tmp_path / "other.png"], tmp_path / "out", truth=truth
        )
    with pytest.raises(UserError, match="None of the 2 inputs has a mask"):
        localization.predict(
            tmp_path, [judged_photos / "authentic"], tmp_path / "out", truth=truth
        )


def test_nothing_to_look_at(tmp_path, run):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image files"):
        localization.predict(tmp_path, [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(UserError, match="No image could be read"):
        localization.predict(tmp_path, [tmp_path / "bad.png"], tmp_path / "out")
    assert ",unreadable," in (tmp_path / "out" / "scores.csv").read_text()


def test_results_are_not_read_again(tmp_path, run):
    Image.fromarray(photo(16, 16)).save(tmp_path / "a.png")
    for _ in range(2):
        text = localization.predict(tmp_path, [tmp_path], tmp_path / "out")
        assert text.startswith("1 image ")
    with pytest.raises(UserError, match="is the folder of the inputs"):
        localization.predict(tmp_path, [tmp_path], tmp_path)


def test_overlays_show_probability_and_outline():
    image = photo(20, 20)
    marked = np.zeros((20, 20), bool)
    marked[5:12, 5:12] = True
    same = localization_page.overlay(image, np.zeros((20, 20)), np.zeros_like(marked))
    np.testing.assert_array_equal(same, image)
    shown = localization_page.overlay(image, marked * 1.0, marked)
    assert (shown[5, 5:12] == (255, 40, 40)).all()
    assert (shown[8, 8] != image[8, 8]).any()
    np.testing.assert_array_equal(shown[~marked], image[~marked])


def judge_photos(tmp_path, photos):
    inputs = [photos / "images", photos / "authentic"]
    out = tmp_path / "out"
    text = localization.predict(tmp_path, inputs, out, truth=str(photos))
    return text, json.loads(
        (out / "truth.json").read_text(), parse_constant=pytest.fail
    )


@pytest.mark.parametrize("damage", ["cut", "size", "empty"])
def test_a_bad_mask_does_not_end_the_comparison(tmp_path, run, judged_photos, damage):
    path = judged_photos / "labels" / "b_mask.png"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        size = (30, 20) if damage == "empty" else (10, 10)
        grey = 0 if damage == "empty" else 255
        Image.new("L", size, grey).save(path)
    text, found = judge_photos(tmp_path, judged_photos)
    files = [Path(row["file"]).stem for row in found["images"]]
    assert sorted(files) == ["a", "c", "d"]
    ((file, error),) = found["left_out"].items()
    assert Path(file).stem == "b" and "b_mask.png" in error
    assert "Left out, for their masks: 1" in text and error in text
    with (tmp_path / "out" / "truth.csv").open() as table:
        errors = {row["file"]: row["error"] for row in csv.DictReader(table)}
    assert errors[file] == error and sum(map(bool, errors.values())) == 1
    assert (tmp_path / "out" / "masks" / "b.png").is_file()


def test_masks_that_cover_everything_leave_no_false_alarms(
    tmp_path, run, judged_photos
):
    path = judged_photos / "labels" / "b_mask.png"
    Image.new("L", (30, 20), 255).save(path)
    _, found = judge_photos(tmp_path, judged_photos)
    rows = {Path(row["file"]).stem: row for row in found["images"]}
    assert rows["b"]["false_alarms"] is None and rows["b"]["auc"] is None
    assert found["false_alarms_tampered"] == rows["a"]["false_alarms"]
    Image.new("L", (30, 20), 255).save(path.with_name("a_mask.png"))
    text, found = judge_photos(tmp_path, judged_photos)
    assert found["false_alarms_tampered"] is None and "other pixels – are" in text


def test_nothing_is_looked_at_where_no_mask_can_be_used(tmp_path, run, judged_photos):
    for path in (judged_photos / "labels").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="None of the masks"):
        judge_photos(tmp_path, judged_photos)
    assert not (tmp_path / "out").exists()
