import os
import pickle
from functools import partial

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import cifar
from tests.datasets.cifar_writer import (
    pack_folder,
    python2_pickle,
    random_split,
    write_binary,
    write_python,
)

COUNTS = (20, 8)
NAMES = {
    100: [f"fine {i}" for i in range(100)],
    10: [f"class {i}" for i in range(10)],
    20: [f"coarse {i}" for i in range(20)],
}
ARCHIVES = {
    (100, write_python): "cifar-100-python.tar.gz",
    (10, write_python): "cifar-10-python.tar.gz",
    (100, write_binary): "cifar-100-binary.tar.gz",
    (10, write_binary): "cifar-10-binary.tar.gz",
}
LAYOUTS = [(classes, write) for classes, write in ARCHIVES]


def splits(classes):
    return random_split(COUNTS[0], classes, 1), random_split(COUNTS[1], classes, 2)


def make(root, classes, write):
    return write(root, classes, *splits(classes), NAMES[classes], NAMES[20])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("classes", "write"), LAYOUTS)
def test_official_layouts(tmp_path, classes, write, packed):
    folder = make(tmp_path, classes, write)
    if packed:
        pack_folder(folder, ARCHIVES[classes, write])
    *sources, names = cifar.read(tmp_path, classes, counts=COUNTS)
    assert names == tuple(NAMES[classes])
    for source, wanted in zip(sources, splits(classes), strict=True):
        np.testing.assert_array_equal(source.arrays["image"], wanted["image"])
        np.testing.assert_array_equal(source.arrays["label"], wanted["label"])
        assert source.arrays["label"].dtype == np.int32
        assert source.arrays["image"].flags.c_contiguous


@pytest.mark.parametrize("write", [write_python, write_binary])
def test_coarse_labels(tmp_path, write):
    make(tmp_path, 100, write)
    train, _, names = cifar.read(tmp_path, 100, coarse=True, counts=COUNTS)
    assert names == tuple(NAMES[20])
    np.testing.assert_array_equal(train.arrays["label"], splits(100)[0]["coarse"])


def test_load_describes_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "read", partial(cifar.read, counts=COUNTS))
    make(tmp_path, 100, write_python)
    dataset = cifar.load(root=str(tmp_path))
    assert dataset.info.name == "cifar100"
    assert dataset.info.image_shape == (32, 32, 3)
    assert dataset.info.mean == (0.5071, 0.4867, 0.4408)
    assert dataset.info.std == (0.2675, 0.2565, 0.2761)
    assert dataset.train(0) is dataset.train(1)
    assert len(dataset.test) == COUNTS[1]
    coarse = cifar.load(root=str(tmp_path), coarse=True)
    assert coarse.info.num_classes == 20


def test_missing_data_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError) as error:
        cifar.load(root=str(tmp_path))
    message = str(error.value)
    for name in ("cifar-100-python/", "cifar-100-binary/", "cifar-100-binary.tar.gz"):
        assert name in message
    assert str(tmp_path) in message
    assert "Download cifar-100-python.tar.gz" in message


def test_official_counts_are_the_default(tmp_path):
    make(tmp_path, 100, write_binary)
    with pytest.raises(UserError, match=r"train.bin has 61,480 .* 153,700,000"):
        cifar.load(root=str(tmp_path))


@pytest.mark.parametrize(("classes", "write"), LAYOUTS)
def test_a_file_cut_in_half(tmp_path, classes, write):
    folder = make(tmp_path, classes, write)
    name = {100: "train", 10: "data_batch_3"}[classes]
    path = folder / (f"{name}.bin" if write is write_binary else name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError) as error:
        cifar.read(tmp_path, classes, counts=COUNTS)
    message = str(error.value)
    assert str(path) in message and f"{len(content) // 2:,} bytes" in message
    assert "expected" in message


def test_a_pickle_without_its_end(tmp_path):
    folder = make(tmp_path, 100, write_python)
    path = folder / "test"
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(UserError, match=rf"{path} is not a .*{len(content) - 3:,}"):
        cifar.read(tmp_path, 100, counts=COUNTS)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize(("classes", "write"), LAYOUTS)
def test_an_archive_cut_short(tmp_path, classes, write, keep):
    path = pack_folder(make(tmp_path, classes, write), ARCHIVES[classes, write])
    content = path.read_bytes()
    size = int(len(content) * keep)
    path.write_bytes(content[:size])
    official = {
        "cifar-100-python.tar.gz": "169,001,437",
        "cifar-10-python.tar.gz": "170,498,071",
        "cifar-10-binary.tar.gz": "170,052,171",
        "cifar-100-binary.tar.gz": "168,513,733",
    }[path.name]
    with pytest.raises(UserError) as error:
        cifar.read(tmp_path, classes, counts=COUNTS)
    message = str(error.value)
    assert f"{path} cannot be read as the archive" in message
    assert f"{size:,} bytes" in message and official in message


def test_a_file_missing_from_the_folder(tmp_path):
    folder = make(tmp_path, 10, write_python)
    (folder / "data_batch_4").unlink()
    with pytest.raises(UserError, match=r"lacks data_batch_4. Unpack cifar-10-python"):
        cifar.read(tmp_path, 10, counts=COUNTS)


def test_labels_are_checked(tmp_path):
    train, test = splits(10)
    train["label"][13] = 10
    write_binary(tmp_path, 10, train, test, NAMES[10])
    with pytest.raises(UserError, match=r"data_batch_4.bin: example 1 has label 10"):
        cifar.read(tmp_path, 10, counts=COUNTS)


def test_wrong_class_names(tmp_path):
    write_binary(tmp_path, 10, *splits(10), NAMES[10][:9])
    with pytest.raises(UserError, match=r"batches.meta.txt has 9 class names"):
        cifar.read(tmp_path, 10, counts=COUNTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((20, 3072), np.int16)}, "images int16"),
        ({"data": np.zeros((21, 3072), np.uint8)}, r"\(21, 3072\), expected uint8"),
        ({"fine_labels": [0] * 19}, r"labels \(19,\), expected \(20,\)"),
        ({"fine_labels": None}, "has no 'fine_labels'; it has"),
    ],
)
def test_wrong_content_of_a_pickle(tmp_path, change, message):
    folder = make(tmp_path, 100, write_python)
    path = folder / "train"
    content = pickle.loads(path.read_bytes(), encoding="bytes")
    content = {k.decode(): v for k, v in content.items() if k != b"filenames"} | change
    content = {k: v for k, v in content.items() if v is not None}
    path.write_bytes(python2_pickle(content | {"batch_label": "x"}))
    with pytest.raises(UserError, match=message):
        cifar.read(tmp_path, 100, counts=COUNTS)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["train", "meta"])
def test_a_malicious_pickle_is_refused(tmp_path, name):
    target = tmp_path / "made"
    folder = make(tmp_path, 100, write_python)
    padding = bytes(COUNTS[0] * 3072)
    harmful = {b"data": Harmful(str(target)), b"padding": padding}
    (folder / name).write_bytes(pickle.dumps(harmful, 2))
    with pytest.raises(UserError, match=rf"{name} was refused: it asks for \w+.mkdir"):
        cifar.read(tmp_path, 100, counts=COUNTS)
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 20}, "classes is 20, expected one of 10, 100"),
        ({"classes": 10, "coarse": True}, "no superclasses"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        cifar.load(**options)
