"""Tables of pairs: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxkd import datasets
from jaxkd.core.errors import UserError
from jaxkd.readers import handwriting as reading


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for writer in "abcd":
        (tmp_path / "words" / writer).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "words" / writer / f"{number}.png")
    return tmp_path / "words"


def _table(root: Path, name: str, *rows: tuple[str, str, int]) -> str:
    path = root.parent / name
    lines = ["sample1,sample2,label", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _load(root, train, test, **options):
    both = {"train_table": train, "test_table": test}
    task = {"task": "pairs", "size": 8}
    return datasets.load("handwriting", root=str(root), **task | both | options)


TRAIN = ("a/0.png", "a/2.png", 1), ("a/0.png", "b/1.png", 0)
TEST = ("c/0.png", "c/1.png", 1), ("d/0.png", "c/1.png", 0)


def test_pairs_are_those_of_the_tables(root):
    train, test = (
        _table(root, f"{name}.csv", *rows)
        for name, rows in (("train", TRAIN), ("test", TEST))
    )
    data = _load(root, train, test)
    for source, rows in ((data.train(0), TRAIN), (data.test, TEST)):
        assert len(source) == 2
        for number, (first, second, label) in enumerate(rows):
            assert source.arrays["label"][number] == label
            for field, file in (("image", first), ("other", second)):
                found = reading.picture(root / file, 8)
                np.testing.assert_array_equal(source.arrays[field][number], found)
        # The evaluator compares words by their places.
        for field, places in zip(("image", "other"), source.table[:2], strict=True):
            found = source.words.image[places]
            np.testing.assert_array_equal(found, source.arrays[field])
    # Pre-training sees no word that only the test names, nor one of neither.
    images = _load(root, train, test, task="images")
    assert len(images.train(0)) == 3 and len(images.test) == 3
    # What was written is what is read.
    parquet = pytest.importorskip("pyarrow") and root.parent / "again.parquet"
    reading.write_pairs(parquet, data.test.table, data.test.words.files)
    again = _load(root, train, str(parquet))
    np.testing.assert_array_equal(again.test.arrays["other"], data.test.arrays["other"])


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (TRAIN, None, {}, "does not exist"),
        (TRAIN, (("c/9.png", "c/1.png", 1),), {}, "two known files"),
        (TRAIN, (("c/0.png", "d/1.png", 1),), {}, "two writers .1 such"),
        (TRAIN, (("c/0.png", "c/1.png", 0),), {}, "one writer .1 such"),
        (TRAIN, (("a/1.png", "c/1.png", 0),), {}, "Writer 'a' is in"),
        (TRAIN, (("a/0.png", "c/1.png", 0),), {"split": "seen"}, "a/0.png"),
        (TRAIN, TEST, {"labelled": 0.1}, "labelled choose among pairs"),
        (TRAIN, TEST, {"test_table": ""}, "expected all three"),
    ],
)
def test_refusals(root, train, test, options, message):
    paths = [_table(root, "train.csv", *train), str(root.parent / "test.csv")]
    if test is not None:
        _table(root, "test.csv", *test)
    with pytest.raises(UserError, match=message):
        _load(root, *paths, **options)


def test_writers_may_be_on_both_sides_if_that_is_said(root):
    train = _table(root, "train.csv", *TRAIN)
    test = _table(root, "test.csv", ("a/1.png", "c/1.png", 0))
    assert len(_load(root, train, test, split="seen").test) == 1
