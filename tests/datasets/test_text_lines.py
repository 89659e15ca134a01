"""Text lines from files: what is read, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.datasets import text_lines
from jaxkd.readers.text_lmdb import TextLmdb


def png(seed, shape):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return pixels, buffer.getvalue()


def write_lmdb(folder, records, count=None):
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True)
    with (
        lmdb.open(str(folder), map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in records.items():
            transaction.put(key.encode(), value)
        transaction.put(b"num-samples", str(count).encode())


def records(texts):
    found = {}
    for i, text in enumerate(texts, start=1):
        found[f"image_hr-{i:09d}"] = png(i, (12, 40, 3))[1]
        found[f"image_lr-{i:09d}"] = png(-i % 99, (6, 20, 3))[1]
        found[f"label-{i:09d}"] = text.encode()
    return found


@pytest.fixture
def textzoom(tmp_path):
    for split, texts in (
        ("train1", ["Ab1", "c"]),
        ("train2", ["dd"]),
        ("test/easy", ["x"]),
        ("test/hard", ["yz", "0"]),
    ):
        write_lmdb(tmp_path / split, records(texts), len(texts))
    return tmp_path


def test_lmdb_folders_are_joined_and_encoded(textzoom):
    data = text_lines.load(str(textzoom), height=8, width=32, slots=4)
    train = data.train(0)
    assert len(train) == 3 and len(data.test) == 3
    first = data.prepare_test(train[0])
    assert first["tokens"].tolist() == [11, 12, 2, 0] and first["length"] == 4
    assert first["image"].shape == (8, 32, 3) and first["low"].shape == (4, 16, 3)
    assert train[2]["group"] == 1 and train[2]["tokens"].tolist() == [14, 14, 0, 0]
    np.testing.assert_array_equal(train[0]["image"], png(1, (12, 40, 3))[0])
    assert [int(data.test[i]["group"]) for i in range(3)] == [0, 1, 1]
    assert data.test.groups == ("easy", "hard")
    assert set(data.fields) == set(first)


def test_damaged_records(tmp_path):
    good = records(["a", "b", "c", "d"])
    good["image_hr-000000002"] = good["image_hr-000000002"][:40]
    good["label-000000003"] = b"\xff\xfe"
    del good["label-000000004"]
    write_lmdb(tmp_path / "x", good, 4)
    lines = TextLmdb(tmp_path / "x")
    assert lines[0].text == "a"
    with pytest.raises(UserError, match=r"image of record 2 .*40 bytes"):
        lines[1]
    with pytest.raises(UserError, match=r"label of record 3 .* expected UTF-8"):
        lines[2]
    with pytest.raises(UserError, match="record 4 of 4 lacks a label"):
        lines[3]
    write_lmdb(tmp_path / "y", {}, "many")
    with pytest.raises(UserError, match="expected a number"):
        TextLmdb(tmp_path / "y")
    broken = tmp_path / "z"
    broken.mkdir()
    (broken / "data.mdb").write_bytes(b"\x01" * 8192)
    with pytest.raises(UserError, match="cannot be read"):
        TextLmdb(broken)
    with pytest.raises(UserError, match=r"has no data\.mdb"):
        TextLmdb(tmp_path)


def table(folder, rows, images=("a.png",)):
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        (folder / image).parent.mkdir(exist_ok=True)
        (folder / image).write_bytes(png(0, (9, 31, 3))[1])  # odd sizes are resized
    (folder / "labels.csv").write_text("".join(f"{row}\n" for row in rows))


def test_folders_with_a_table(tmp_path):
    table(tmp_path / "train", ['a.png,"A,b"'])
    table(tmp_path / "test", ["a.png,abc"])
    data = text_lines.load(str(tmp_path), height=8, width=32, slots=4, unknown="drop")
    assert data.train(0)[0]["tokens"].tolist() == [11, 12, 0, 0]
    assert data.prepare_test(data.test[0])["image"].shape == (8, 32, 3)
    with pytest.raises(UserError, match="has the characters ,"):
        text_lines.load(str(tmp_path), slots=4)
    short = text_lines.load(str(tmp_path), slots=3, unknown="drop")
    with pytest.raises(UserError, match="has 3 characters, expected at most 2"):
        short.test[0]


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match="0 training folders and 0 test folders"):
        text_lines.load(str(tmp_path))
    table(tmp_path / "train", ["a.png"])
    table(tmp_path / "test", ["a.png,x"])
    with pytest.raises(UserError, match="line 1: 1 columns, expected two"):
        text_lines.load(str(tmp_path))
    table(tmp_path / "train", ["b.png,x"])
    with pytest.raises(UserError, match=r"names 'b\.png', which does not exist"):
        text_lines.load(str(tmp_path))
    table(tmp_path / "train", ["a.png,x", "a.png,x", "a.png,y"])
    with pytest.raises(UserError, match=r"line 3: 'a\.png' is 'y', and in a line"):
        text_lines.load(str(tmp_path))
    table(tmp_path / "train", [])
    with pytest.raises(UserError, match="has no lines"):
        text_lines.load(str(tmp_path))
    (tmp_path / "train/labels.csv").unlink()
    with pytest.raises(UserError, match=r"neither data\.mdb nor labels\.csv"):
        text_lines.load(str(tmp_path))


def test_lines_that_would_be_passed_over(tmp_path):
    table(tmp_path / "train", ["a.png,x"])
    for name in ("easy", "medium"):
        table(tmp_path / "test" / name, ["a.png,x"])
    for name in ("test/.cache", "test/__MACOSX", "fonts"):
        (tmp_path / name).mkdir()
    assert text_lines.load(str(tmp_path)).test.groups == ("easy", "medium")
    for name in ("test/Hard", "train3"):
        table(tmp_path / name, ["a.png,x"])
        message = f"/{name}: no line would be read .*test/<easy.medium.hard>"
        with pytest.raises(UserError, match=message):
            text_lines.load(str(tmp_path))
        (tmp_path / name).rename(tmp_path / "fonts" / Path(name).name)
    table(tmp_path / "test", ["easy/a.png,x"])
    with pytest.raises(UserError, match="/test: no line would be read"):
        text_lines.load(str(tmp_path))


def test_folders_of_images_inside_one_test_folder(tmp_path):
    table(tmp_path / "train", ["a.png,x"])
    table(tmp_path / "test", ["scans/a.png,x"], images=("scans/a.png",))
    assert len(text_lines.load(str(tmp_path)).test) == 1
