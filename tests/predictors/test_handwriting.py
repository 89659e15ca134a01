"""A small run of all of it: pre-training, verification, report, people's own words."""

import csv
import json
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.drawing.handwriting import draw_writers
from jaxkd.predictors import handwriting
from jaxkd.readers import handwriting as reading
from jaxkd.train import train
from tests.test_configs import load_file


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("skimage")
    config = load_file("ssl_hv").get_config("quick")
    del config.needs["vae"], config.needs["all_writers"], config.students["vae"]
    for part in (config, *config.needs.values()):
        part.data.update({"writers": 20, "test_writers": 6, "size": 16})
        part.duration = part.eval_every = part.checkpoint_every = 4.0
    workdir = tmp_path_factory.mktemp("handwriting")
    with warnings.catch_warnings():
        # After four steps the encoder may well give all words one direction.
        warnings.filterwarnings("ignore", "Collapsed", UserWarning)
        train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    drawn = draw_writers(2, 3, side=20)
    for image, writer, sample in zip(drawn.image, drawn.writer, range(6), strict=True):
        path = root / f"hand{writer}" / f"{sample}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return root


@pytest.mark.slow
def test_report_and_scores(finished):
    results = json.loads((finished / "results.json").read_text())
    last = results["students"]["vicreg"]["last"]
    assert set(results["students"]) == {"supervised", "vicreg", "vicreg_finetuned"}
    for name in ("accuracy", "precision", "auc", "eer", "gap", "cosine_auc"):
        assert np.isfinite(last[name]).all()
    np.testing.assert_allclose(
        last["gap"][0], last["intra"][0] - last["inter"][0], 1e-6
    )
    page = (finished / "report.html").read_text()
    for text in ("Verification of writers", "Hand-crafted descriptors", "GSC-style"):
        assert text in page
    for figure in ("verification", "writers"):
        assert (finished / "figures" / f"{figure}.png").stat().st_size > 1000


def _read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_people_s_own_words(finished, words, tmp_path):
    text = handwriting.predict(finished, [words], tmp_path, student="vicreg")
    assert "6 words, 15 pairs" in text
    rows = _read(tmp_path / "pairs.csv")
    probability = [float(row["probability"]) for row in rows]
    assert len(rows) == 15 and probability == sorted(probability, reverse=True)
    assert all((p > 0.5) == (row["same"] == "1") for p, row in zip(
        probability, rows, strict=True) if abs(p - 0.5) > 1e-3)  # fmt: skip
    assert len(_read(tmp_path / "neighbours.csv")) == 6 * 3
    page = (tmp_path / "pairs.html").read_text()
    assert page.count("<tr>") == 16 and page.count("<img") == 15 * (2 + 3)
    # A folder against a folder; either way round is the same pair.
    folders = [words / "hand0", words / "hand1"]
    handwriting.predict(finished, folders, tmp_path / "two", student="vicreg")
    crossed = _read(tmp_path / "two" / "pairs.csv")
    assert len(crossed) == 9
    known = {frozenset((r["first"], r["second"])): r["probability"] for r in rows}
    for row in crossed:
        same = known[frozenset((row["first"], row["second"]))]
        assert abs(float(same) - float(row["probability"])) < 2e-4
    chosen = tmp_path / "pairs_in.csv"
    chosen.write_text(f"{words}/hand0/0.png,{words}/hand1/3.png\n")
    handwriting.predict(
        finished, [words], tmp_path / "one", student="vicreg", pairs=str(chosen)
    )
    assert len(_read(tmp_path / "one" / "pairs.csv")) == 1
    # A table with labels, as the library writes it: relative to the folder of words.
    files = sorted(str(p.relative_to(words)) for p in words.rglob("*.png"))
    writers = np.array([name.startswith("hand1") for name in files])
    table = reading.make_pairs(writers, seed=0)
    reading.write_pairs(chosen, table, files)
    text = handwriting.predict(
        finished, [words], tmp_path / "named", student="vicreg", pairs=str(chosen)
    )
    labelled = _read(tmp_path / "named" / "pairs.csv")
    right = sum(row["same"] == row["label"] for row in labelled)
    assert f"12 pairs, {sum(r['same'] == '1' for r in labelled)} of one" in text
    assert f", {right} as labelled" in text
    for row in labelled:
        same_hand = "hand0" in row["first"] and "hand0" in row["second"]
        same_hand |= "hand1" in row["first"] and "hand1" in row["second"]
        assert row["label"] == str(int(same_hand))
    # The cosine of a pair is the one of the neighbours.
    near = {
        (r["file"], r["neighbour"]): r["cosine"]
        for r in _read(tmp_path / "neighbours.csv")
    }
    both = [(near.get((r["first"], r["second"])), r["cosine"]) for r in rows]
    assert any(a for a, _ in both) and all(a in (None, b) for a, b in both)
    chosen.write_text("absent.png,other.png\n")
    with pytest.raises(UserError, match="two paths among the 6 inputs"):
        handwriting.predict(
            finished, [words], tmp_path / "one", student="vicreg", pairs=str(chosen)
        )
    with pytest.raises(UserError, match="at least two"):
        handwriting.predict(
            finished, [words / "hand0" / "0.png"], tmp_path, student="vicreg"
        )
