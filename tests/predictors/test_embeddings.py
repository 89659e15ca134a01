"""A small run on a folder of people, and its network on somebody's own images."""

import csv
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.predictors import embeddings
from jaxkd.train import train

pytestmark = pytest.mark.slow


def write_people(root, people, each, size=12, seed=0):
    """Writes noisy images in a colour of each person's own."""
    rng = np.random.default_rng(seed)
    for person in range(people):
        colour = rng.integers(40, 215, 3)
        (root / f"p{person:02}").mkdir(parents=True)
        for i in range(each):
            image = colour + rng.integers(-20, 21, (size, size, 3))
            path = root / f"p{person:02}" / f"{i}.png"
            Image.fromarray(image.astype(np.uint8)).save(path)
    return root


def people_config(root):
    config = configs.default()
    config.name = "people"
    config.method = "metric_learning"
    config.loss = ConfigDict({"margin": 0.1})
    config.model = ConfigDict(
        {"name": "embed8", "stem": 2, "widths": (2, 4), "strides": (1, 2), "width": 4}
        | {"input": "low"}
    )
    config.data = ConfigDict(
        {"name": "identities", "root": str(root), "size": 12, "split": "identities"}
        | {"test_share": 0.5, "pairs": 20, "folds": 2}
    )
    config.view = ConfigDict({"name": "low", "base": {"name": "plain"}, "side": 6})
    config.batch_size, config.eval_batch_size, config.workers = 8, 8, 1
    config.unit, config.duration = "steps", 4.0
    config.eval_every = config.checkpoint_every = 4.0
    config.optim.lr = 0.02
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and its results."""
    root = write_people(tmp_path_factory.mktemp("people"), 12, 4)
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(people_config(root), workdir)


@pytest.fixture
def pictures(tmp_path):
    """Images of three people that the run never saw: of two other sizes."""
    write_people(tmp_path / "mine", 3, 4, size=20, seed=5)
    with Image.open(tmp_path / "mine" / "p00" / "0.png") as image:
        image.resize((5, 5)).save(tmp_path / "mine" / "p00" / "small.png")
    return tmp_path / "mine"


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_run_says_what_verification_gives(finished):
    workdir, results = finished
    (last,) = [one["last"] for one in results["students"].values()]
    for name in ("pairs", "verification", "eer", "recall_at_1", "threshold"):
        assert len(last[name]) == 1 and np.isfinite(last[name][0]), name
    assert (workdir / "figures" / "verification.png").is_file()
    assert [table["title"] for table in results["tables"]] == ["Recognition"]


def test_neighbours(finished, pictures, tmp_path):
    said = embeddings.predict(finished[0], [pictures], tmp_path / "out", neighbours=2)
    assert said.startswith("13 images, embeddings of 4 numbers; 2 neighbours each")
    with np.load(tmp_path / "out" / "embeddings.npz") as saved:
        names, vectors = list(saved["files"]), saved["embeddings"]
    assert vectors.shape == (13, 4) and names[0].endswith("p00/0.png")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    listed = rows(tmp_path / "out" / "neighbours.csv")
    assert len(listed) == 26
    for row in listed:
        place, rank = names.index(row["file"]), int(row["rank"])
        best = np.sort(cosines[place])[-rank]
        np.testing.assert_allclose(float(row["cosine"]), best, atol=1e-3)
    with Image.open(tmp_path / "out" / "neighbours.png") as sheet:
        assert sheet.size == (3 * 76 + 16, 13 * 76 + 4)


def test_an_image_that_cannot_be_read_has_a_row(finished, pictures, tmp_path):
    (pictures / "p01" / "0.png").write_bytes(b"no image")
    asked = pictures / "pairs.csv"
    asked.write_text("p00/0.png,p00/1.png\np00/0.png,p01/0.png\n")
    out = tmp_path / "out"
    said = embeddings.predict(
        finished[0], [pictures], out, neighbours=12, pairs=asked, threshold=-1.0
    )
    assert "12 images" in said and "1 could not be read" in said
    listed = {Path(row["file"]).name: row for row in rows(out / "files.csv")}
    assert len(rows(out / "files.csv")) == 13 and "small.png" in listed
    statuses = [row["status"] for row in rows(out / "files.csv")]
    assert statuses.count("unreadable") == 1
    assert [row["status"] for row in rows(out / "pairs.csv")] == ["ok", "unreadable"]
    with np.load(out / "embeddings.npz") as saved:
        assert len(saved["files"]) == 12 == len(saved["embeddings"])
    assert len(rows(out / "neighbours.csv")) == 12 * 11


def test_embedding_does_not_depend_on_company(finished, pictures, tmp_path):
    vectors = []
    for inputs in ([pictures], [pictures / "p01", pictures / "p02"]):
        embeddings.predict(finished[0], inputs, tmp_path / "out", neighbours=0)
        with np.load(tmp_path / "out" / "embeddings.npz") as saved:
            vectors.append(saved["embeddings"][-4:])
    np.testing.assert_allclose(vectors[0], vectors[1], 1e-4, 1e-5)


def test_pairs(finished, pictures, tmp_path):
    asked = pictures / "pairs.csv"
    asked.write_text("p00/0.png,p00/1.png\np00/0.png,p01/0.png\n")
    said = embeddings.predict(
        finished[0], [pictures], tmp_path / "out", pairs=asked, neighbours=0
    )
    (known,) = finished[1]["students"].values()
    found = rows(tmp_path / "out" / "pairs.csv")
    for row in found:
        assert abs(float(row["threshold"]) - known["last"]["threshold"][0]) < 1e-4
        assert (row["same"] == "1") == (float(row["cosine"]) >= float(row["threshold"]))
    accepted = sum(row["same"] == "1" for row in found)
    assert f"{accepted} of 2 pairs accepted" in said
    said = embeddings.predict(
        *(finished[0], [pictures], tmp_path / "out"), pairs=asked, threshold=1.5
    )
    assert "0 of 2 pairs accepted" in said


def test_wrong_pairs(finished, pictures, tmp_path):
    asked = tmp_path / "pairs.csv"

    def run():
        embeddings.predict(finished[0], [pictures], tmp_path / "out", pairs=asked)

    with pytest.raises(UserError, match=r"pairs.csv does not exist"):
        run()
    asked.write_text("mine/p00/0.png,mine/p07/9.png\n")
    with pytest.raises(UserError, match=r"line 1: mine/p07/9.png is not among the 13"):
        run()
    asked.write_text("mine/p00/0.png\n")
    with pytest.raises(UserError, match=r"line 1, is .*, expected two paths"):
        run()
    asked.write_text("")
    with pytest.raises(UserError, match="is empty, expected a pair of paths"):
        run()


def test_wrong_inputs(finished, pictures, tmp_path):
    def run(inputs, workdir=finished[0], output=tmp_path / "out", **options):
        embeddings.predict(workdir, inputs, output, **options)

    with pytest.raises(UserError, match="nowhere does not exist"):
        run([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="needs --inputs"):
        run([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image files"):
        run([tmp_path / "empty"])
    with pytest.raises(UserError, match="13 neighbours were asked for of 13 images"):
        run([pictures], neighbours=13)
    with pytest.raises(UserError, match=r"holds no results.json"):
        run([pictures], workdir=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is no folder and cannot be made one"):
        run([pictures], output=tmp_path / "file")
    path = pictures / "p00" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    run([pictures])
    rows = (tmp_path / "out" / "files.csv").read_text().splitlines()
    bad = [row for row in rows if "p00/0.png" in row]
    assert len(rows) == 14 and "cannot be read as an image" in bad[0]


def test_a_network_without_embedding(finished_run, pictures, tmp_path):
    with pytest.raises(UserError, match=r"has no embedding, only .*Train one by"):
        embeddings.predict(
            finished_run[0], [pictures], tmp_path / "out", student="zebra"
        )
