"""Folders of words, pairs and splits: what is read, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from jaxkd import datasets
from jaxkd.core.errors import UserError
from jaxkd.readers import handwriting as reading

rng = np.random.default_rng(0)


def save(path, shape=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
    return path


def cedar(root, writers=("0001", "0002", "0003", "0004"), samples=3):
    for writer in writers:
        for sample in range(samples):
            save(root / f"{writer}{'ab'[sample % 2]}_num{sample}.png")
    return root


def test_flat_folder_of_cedar_names(tmp_path):
    words, test = reading.read_folder(cedar(tmp_path), 16)
    assert test is None and words.names == ("0001", "0002", "0003", "0004")
    assert words.image.shape == (12, 16, 16, 1)
    place = words.files.index("0002b_num1.png")
    stored = np.asarray(Image.open(tmp_path / "0002b_num1.png"))
    np.testing.assert_array_equal(words.image[place, ..., 0], stored)
    assert words.names[words.writer[place]] == "0002"


def test_supervised_tree_and_unlabelled_files(tmp_path):
    for writer, side in (("0001", "train"), ("0002", "train"), ("0003", "test")):
        for sample in range(2):
            name = f"{writer}a_num{sample}.png"
            save(tmp_path / "supervised" / side / writer / name)
    cedar(tmp_path / "unsupervised")
    train, test = reading.read_folder(tmp_path, 8)
    assert train.names == test.names == ("0001", "0002", "0003")
    assert set(train.writer) == {0, 1} and set(test.writer) == {2}
    data = datasets.load("handwriting", root=str(tmp_path), size=8)
    assert len(data.train(0)) == 12 and list(data.train(0).arrays) == ["image"]


def test_pictures_without_writers_are_no_writer_and_never_of_the_test(tmp_path):
    for writer in ("anna", "bela", "cleo"):
        for sample in range(2):
            save(tmp_path / writer / f"{sample}.png", (8, 8))
    save(tmp_path / "unsupervised" / "0.png", (8, 8))
    words, _ = reading.read_folder(tmp_path, 8)
    assert words.names == ("anna", "bela", "cleo") and len(words.image) == 6
    options = {"root": str(tmp_path), "size": 8, "test_share": 0.34}
    data = datasets.load("handwriting", **options)
    test = data.test.arrays["image"]
    # A copy of all words is beside them, under other names.
    for number, image in enumerate(words.image):
        path = tmp_path / "unsupervised" / f"copy{number}.png"
        Image.fromarray(image[..., 0]).save(path)
    with pytest.warns(UserWarning, match="2 of 7 pictures of unsupervised are also in"):
        data = datasets.load("handwriting", **options)
    train = {image.tobytes() for image in data.train(0).arrays["image"]}
    assert len(train) == 5
    assert not train & {image.tobytes() for image in test}


def test_wide_words_are_padded_with_paper(tmp_path):
    path = save(tmp_path / "x.png", (10, 20))
    found = reading.picture(path, 20)
    assert (found[:5] == 255).all() and (found[15:] == 255).all()
    stored = np.asarray(Image.open(path))
    np.testing.assert_array_equal(found[5:15, :, 0], stored)
    assert reading.picture(path, 10).shape == (10, 10, 1)


def test_refused_folders(tmp_path):
    def refused(message, root, **options):
        with pytest.raises(UserError, match=message):
            reading.read_folder(root, 8, **options)

    refused("is no folder", tmp_path / "absent")
    bad = cedar(tmp_path / "bad")
    save(bad / "12a_num0.png")
    refused("not named like 0001a_num2.png", bad)
    mixed = cedar(tmp_path / "mixed")
    save(mixed / "0009" / "a.png")
    refused("has folders and also files", mixed)
    both = tmp_path / "both"
    for side in ("train", "test"):
        save(both / side / "anna" / f"{side}.png")
    refused("'anna' is in both train and test", both)
    twin = tmp_path / "twin"
    for side, writer in (("train", "anna"), ("test", "bela")):
        save(twin / side / writer / "1.png")
    content = (twin / "train" / "anna" / "1.png").read_bytes()
    (twin / "test" / "bela" / "1.png").write_bytes(content)
    refused("are the same picture", twin)
    broken = tmp_path / "broken" / "anna"
    save(broken / "1.png").write_bytes(b"\x89PNG but no more")
    refused("cannot be read as an image", broken.parent)
    (tmp_path / "text" / "anna").mkdir(parents=True)
    (tmp_path / "text" / "anna" / "1.txt").write_text("and")
    refused("is no image by its name", tmp_path / "text")
    half = tmp_path / "half"
    save(half / "train" / "anna" / "1.png")
    refused("train but no test", half)


def test_writers_of_one_word_are_refused_or_left_out(tmp_path):
    root = cedar(tmp_path)
    save(root / "0005a_num0.png")
    save(root / "0006a_num0.png")
    options = {"root": str(root), "size": 8, "task": "pairs", "test_share": 0.5}
    with pytest.raises(UserError, match="has one picture only"):
        datasets.load("handwriting", **options)
    data = datasets.load("handwriting", **options, drop_single=True)
    assert len(data.test) and data.train(0).words.image.shape[1:] == (8, 8, 1)


def test_pairs_are_balanced_and_repeatable():
    writers = np.repeat([5, 6, 7], [4, 3, 2])
    table = reading.make_pairs(writers, seed=0)
    positives = 6 + 3 + 1
    assert table.same.sum() == positives and (~table.same).sum() == positives
    np.testing.assert_array_equal(
        writers[table.first] == writers[table.second], table.same
    )
    found = {tuple(p) for p in np.stack(table[:2], 1)[table.same]}
    assert len(found) == positives
    # Each negative begins with its positive's first sample.
    np.testing.assert_array_equal(table.first[table.same], table.first[~table.same])
    again, other = (reading.make_pairs(writers, seed=s) for s in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(table, again, strict=True))
    assert not np.array_equal(table.second, other.second)
    few = reading.make_pairs(writers, seed=0, max_positives=1)
    assert few.same.sum() == 3
    every = reading.make_pairs(writers, seed=0, balance=False)
    assert (~every.same).sum() == 4 * 3 + 4 * 2 + 3 * 2
    with pytest.raises(UserError, match="at least two writers"):
        reading.make_pairs(np.zeros(4), seed=0)


def test_splits_share_what_they_say():
    writers = np.repeat(np.arange(10), 4)
    shared = {"unseen": 0, "seen": 10, "shuffled": 2}
    for mode, count in shared.items():
        train, test = reading.split(writers, mode, share=0.4, seed=0)
        assert not set(train) & set(test)
        assert len(train) + len(test) == 40
        assert len(set(writers[train]) & set(writers[test])) == count
    last = reading.split(writers, "unseen", share=0.4, seed=3, order="sorted")[1]
    assert set(writers[last]) == {6, 7, 8, 9}
    with pytest.raises(UserError, match="at least one on either side"):
        reading.split(writers, "unseen", share=0.01, seed=0)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pair_files(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    table = reading.make_pairs(np.repeat([0, 1], 3), seed=0)
    files = ["=w/0.png", *(f"w/{i}.png" for i in range(1, 6))]
    path = tmp_path / f"pairs.{suffix}"
    reading.write_pairs(path, table, files)
    found = reading.read_pairs(path, files)
    assert all(np.array_equal(a, b) for a, b in zip(table, found, strict=True))
    if suffix == "csv":
        assert "\n=" not in path.read_text() and "'=w/0.png" in path.read_text()
    with pytest.raises(UserError, match="two known files"):
        reading.read_pairs(path, files[:3])
    columns = table._replace(**{k: v[:0] for k, v in table._asdict().items()})
    reading.write_pairs(path, columns, files)
    with pytest.raises(UserError, match="has no pair"):
        reading.read_pairs(path, files)
    with pytest.raises(UserError, match=r"expected \.csv or \.parquet"):
        reading.write_pairs(tmp_path / "pairs.txt", table, files)
