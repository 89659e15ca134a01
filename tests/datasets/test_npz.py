import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import npz


def arrays(**changes):
    rng = np.random.default_rng(0)
    base = {
        "train_images": rng.integers(0, 256, (12, 6, 5, 3), np.uint8),
        "train_labels": np.arange(12) % 4,
        "test_images": rng.integers(0, 256, (5, 6, 5, 3), np.uint8),
        "test_labels": np.arange(5) % 4,
    }
    return base | changes


@pytest.fixture
def write(tmp_path):
    def save(**changes):
        path = tmp_path / "mine.npz"
        content = {k: v for k, v in arrays(**changes).items() if v is not None}
        np.savez_compressed(path, **content)
        return str(path)

    return save


def test_arrays_come_back(write):
    dataset = npz.load(write())
    assert dataset.info[:3] == ("mine", 4, (6, 5, 3))
    assert dataset.info.class_names == ("0", "1", "2", "3")
    for source, split in ((dataset.train(0), "train"), (dataset.test, "test")):
        np.testing.assert_array_equal(
            source.arrays["image"], arrays()[f"{split}_images"]
        )
        np.testing.assert_array_equal(
            source.arrays["label"], arrays()[f"{split}_labels"]
        )
        assert source.arrays["label"].dtype == np.int32


def test_grey_images_and_column_labels(write):
    path = write(
        train_images=arrays()["train_images"][..., 0],
        test_images=arrays()["test_images"][..., 0],
        train_labels=arrays()["train_labels"][:, None].astype(np.uint8),
    )
    dataset = npz.load(path, classes=6, class_names=tuple("abcdef"))
    assert dataset.info.image_shape == (6, 5, 1)
    assert dataset.info.num_classes == 6
    np.testing.assert_array_equal(
        dataset.train(0).arrays["label"], arrays()["train_labels"]
    )


def test_other_split_to_evaluate_on(write):
    images, labels = arrays()["test_images"][::-1], np.array([3, 3, 3, 3, 0])
    path = write(val_images=images, val_labels=labels)
    dataset = npz.load(path, test_split="val")
    np.testing.assert_array_equal(dataset.test.arrays["label"], labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks test_labels; its arrays are: train_images"),
        ({"train_images": np.zeros((12, 4, 4, 3))}, "train_images are float64"),
        ({"train_images": np.zeros((12, 4), np.uint8)}, r"uint8 \(12, 4\), expected"),
        ({"train_labels": np.zeros(11, int)}, r"train_labels are \(11,\)"),
        ({"train_labels": np.zeros(12)}, "labels have dtype float64"),
        ({"train_labels": np.array(["cat"] * 12)}, "labels have dtype <U3"),
        ({"train_images": np.zeros((0, 6, 5, 3), np.uint8)}, r"train_labels are \(12,"),
        ({"train_labels": np.arange(12) - 1}, "train_labels: example 0 has label -1"),
        ({"test_labels": np.arange(5)}, "test_labels: example 4 has label 4"),
        ({"test_images": np.zeros((5, 6, 6, 3), np.uint8)}, r"are \(6, 6, 3\)"),
        ({"train_labels": np.array([{}] * 12)}, "plain arrays.*allow_pickle"),
    ],
)
def test_wrong_arrays_are_named(write, changes, message):
    with pytest.raises(UserError, match=message):
        npz.load(write(**changes))


def test_wrong_number_of_class_names(write):
    with pytest.raises(UserError, match="2 class_names were given, expected 4"):
        npz.load(write(), class_names=("a", "b"))


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.6, 0.95])
def test_damaged_file(write, tmp_path, keep):
    path = write()
    with open(path, "rb") as file:
        content = file.read()
    cut = keep if isinstance(keep, int) else int(keep * len(content))
    with open(path, "wb") as file:
        file.write(content[:cut])
    with pytest.raises(UserError, match=r"mine.npz cannot be read"):
        npz.load(path)


def test_flipped_bytes_are_noticed(write):
    path = write()
    with open(path, "rb") as file:
        content = bytearray(file.read())
    middle = len(content) // 3
    content[middle : middle + 40] = bytes(40)
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match=r"mine.npz cannot be read"):
        npz.load(path)


def test_missing_file_and_other_formats(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        npz.load(str(tmp_path / "none.npz"))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="cannot be read"):
        npz.load(str(tmp_path / "one.npy"))
