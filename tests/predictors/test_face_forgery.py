"""Scoring of people's own faces: rows, statuses, words and pictures."""

import csv

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.drawing import films
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.predictors import face_forgery as predictor
from jaxkd.predictors import face_forgery_page
from jaxkd.readers import images
from jaxkd.readers.face_alignment import TEMPLATE, Faces

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
    found = predictor._Scoring(classify, 16, GRAPH, out, 0.5, 4).score(files, 0)
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


def test_a_film_has_one_row_with_the_mean_over_its_frames(tmp_path, capsys):
    pytest.importorskip("av")
    shades = np.linspace(0, 240, 60).astype(np.uint8)  # of red: ever more suspicious
    frames = np.zeros((60, 80, 72, 3), np.uint8)
    frames[..., 0] = shades[:, None, None]
    films.write(tmp_path / "b.mp4", frames, faststart=True)
    films.write(tmp_path / "short.mp4", frames[:3], faststart=True)
    whole = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: -len(whole) // 3])
    (tmp_path / "no.mp4").write_bytes(b"no film")
    Image.new("RGB", (80, 90), (255, 0, 0)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    (out / "faces").mkdir(parents=True)
    files = [tmp_path / f"{n}" for n in ("a.png", "b.mp4", "cut.mp4", "no.mp4")]
    files.append(tmp_path / "short.mp4")
    found = predictor._Scoring(classify, 16, GRAPH, out, 0.5, 4).score(files, 0)
    assert [f.status for f in found] == ["ok", "ok", "damaged", "unreadable", "ok"]
    assert [f.frames for f in found] == [1, 4, 4, 0, 3]
    assert found[0].fake == pytest.approx(1)
    expected = shades[[0, 19, 39, 59]].mean() / 255
    assert found[1].fake == pytest.approx(expected, abs=0.02)
    assert found[1].nodes[2] == pytest.approx(0.9 * found[1].fake)
    assert found[2].fake < found[1].fake  # the reddest frames are cut off
    assert found[4].fake < 0.05
    with Image.open(out / "faces" / found[1].name) as picture:  # the reddest frame
        assert abs(int(np.array(picture)[0, 0, 0]) - 240) < 12
    assert "no.mp4 cannot be read as a film" in capsys.readouterr().err
    page = face_forgery_page.page(found, "films", 0.5)
    assert "mean over 4 frames, the most suspicious shown (damaged" in page
    assert sorted(images.find([tmp_path], out, predictor.SUFFIXES)) == sorted(files)


def test_the_largest_face_is_found_in_images_and_frames(tmp_path):
    """A detector that sees a face of 90 pixels in the middle of all that is bright."""

    def find(image):
        lit = image[..., 0] > 60
        place = np.array([[image.shape[1] / 2, image.shape[0] / 2]])
        count = int(lit.any()) * (2 if lit.all() else 1)
        sides = np.array([90.0, 40.0])[:count, None]
        boxes = np.concatenate([place - sides / 2, sides, sides], 1)[:count]
        points = place + (TEMPLATE - 56) * sides[:, None] / 112
        return Faces(boxes.reshape(-1, 4), points.reshape(-1, 5, 2))

    pytest.importorskip("av")
    shades = np.linspace(0, 240, 40).astype(np.uint8)
    frames = np.zeros((40, 120, 140, 3), np.uint8)
    frames[..., 0] = shades[:, None, None]
    films.write(tmp_path / "c.mp4", frames, faststart=True)
    Image.new("RGB", (120, 140), (200, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (120, 140)).save(tmp_path / "b.png")
    (tmp_path / "out" / "faces").mkdir(parents=True)
    scoring = predictor._Scoring(classify, 16, GRAPH, tmp_path / "out", 0.5, 4, find)
    files = [tmp_path / name for name in ("a.png", "b.png", "c.mp4")]
    one, none, film = scoring.score(files, 0)
    assert (one.status, one.faces, one.fake) == ("ok", 2, pytest.approx(200 / 255))
    assert (none.status, none.faces, none.frames) == ("no_face", 0, 0)
    assert "b.png: no face was found" in none.error
    # Of four frames the first is dark.
    assert (film.status, film.frames, film.faces) == ("ok", 3, 2)
    assert film.fake == pytest.approx(shades[[13, 26, 39]].mean() / 255, abs=0.02)
    predictor._write_scores(tmp_path / "scores.csv", [one, none, film], GRAPH)
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["faces"] for row in rows] == ["2", "0", "2"]
    assert rows[1]["fake"] == "" and rows[1]["status"] == "no_face"
    small = scoring._replace(find=lambda image: Faces(*(x[1:] for x in find(image))))
    assert [f.status for f in small.score(files[:1], 0)] == ["small"]


def test_more_frames_than_a_batch_holds():
    seen = []

    def classify(batch):
        seen.append(len(batch))
        return batch[:, :1]

    rows = np.arange(70.0)[:, None]
    call = predictor._in_any_number(classify)
    np.testing.assert_array_equal(call(rows), rows)
    assert seen == [32, 32, 6]


def test_words():
    silent = [0.7, *[float("nan")] * 11]
    assert predictor.explain(silent, GRAPH, 0.5) == "fake 0.70"
    assert predictor.explain([0.2, *[0.9] * 11], GRAPH, 0.5) == "real 0.80"


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(UserError, match="frames is -1"):
        predictor.predict(tmp_path, [tmp_path], tmp_path, frames=-1)
    with pytest.raises(UserError, match="threshold is 1"):
        predictor.predict(tmp_path, [tmp_path], tmp_path, threshold=1)
