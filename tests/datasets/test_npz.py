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
    assert dataset.info.numbered
    assert not npz.load(write(), class_names=tuple("0123")).info.numbered
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


def test_classes_without_examples_where_they_are_given(write):
    dataset = npz.load(write(train_labels=np.arange(12) % 3 + 1), classes=11)
    assert dataset.info.num_classes == 11


@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [
        (np.float32, (0.0, 1.0)),
        (np.float64, (-1.0, 1.0)),
        (np.uint16, (0, 65535)),
        (np.int16, (-1000, 1000)),
        (np.float16, (0, 255)),
        (np.uint8, (0, 255)),
    ],
)
def test_images_of_other_ranges(write, dtype, value_range):
    """All values of a range, black and white at its ends, against float64."""
    black, white = value_range
    images = np.linspace(black, white, 5 * 6 * 5 * 3).reshape(5, 6, 5, 3).astype(dtype)
    path = write(test_images=images, train_images=np.tile(images, (3, 1, 1, 1))[:12])
    dataset = npz.load(path, value_range=value_range)
    wanted = (images.astype(float) - black) / (white - black) * 255
    got = dataset.test.arrays["image"]
    assert got.dtype == np.uint8 and (got.min(), got.max()) == (0, 255)
    np.testing.assert_allclose(got, wanted, atol=0.5 + 1e-6)
    assert dataset.example(dataset.train(0))["image"].dtype == np.uint8


@pytest.mark.parametrize(
    ("images", "value_range", "message"),
    [
        (np.linspace(0, 1, 12), None, r"float64 from 0 to 1, .*value_range=\(0.0, 1"),
        (np.linspace(0, 2, 12), (0, 1), r"from 0 to 2, expected values within"),
        (np.linspace(-1, 1, 12), (0, 1), r"from -1 to 1, expected values within"),
        (np.linspace(0, 1, 12), (1, 0), "black below white"),
        (np.full(12, np.nan), (0, 1), "from nan to nan, expected values within"),
        (np.linspace(0, 1, 12), (0, 255), "fewer than 8 of 256 shades"),
        (np.arange(12) + 0j, (0, 255), "complex128"),
        (
            np.arange(12).astype(np.uint8) % 2,
            None,
            "uint8 from 0 to 1, .*divided by 255",
        ),
        (np.arange(12).astype(np.uint8) % 2, (0, 255), "fewer than 8 of 256 shades"),
        (np.linspace(0, 1, 12), (0.5, 0.5), "black below white"),
    ],
)
def test_images_whose_range_is_not_declared_or_wrong(
    write, images, value_range, message
):
    images = np.broadcast_to(images[:, None, None, None], (12, 6, 5, 3))
    with pytest.raises(UserError, match=message):
        npz.load(write(train_images=images), value_range=value_range)


def test_uint8_images_of_zeros_and_ones_by_their_range(write):
    ones = [arrays()[f"{split}_images"] % 2 for split in ("train", "test")]
    path = write(train_images=ones[0], test_images=ones[1])
    found = npz.load(path, value_range=(0, 1)).test.arrays["image"]
    np.testing.assert_array_equal(found, 255 * ones[1])
    mixed = write(test_images=ones[1])  # one split divided, one not
    with pytest.raises(UserError, match="test_images are uint8 from 0 to 1"):
        npz.load(mixed)


def test_other_split_to_evaluate_on(write):
    images, labels = arrays()["test_images"][::-1], np.array([3, 3, 3, 3, 0])
    path = write(val_images=images, val_labels=labels)
    dataset = npz.load(path, test_split="val")
    np.testing.assert_array_equal(dataset.test.arrays["label"], labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks test_labels; its arrays are: train_images"),
        ({"train_images": np.zeros((12, 4, 4, 3))}, "train_images are float64 from 0"),
        ({"train_images": np.zeros((12, 4), np.uint8)}, r"uint8 \(12, 4\), expected"),
        ({"train_images": np.zeros((12, 4, 4, 3), bool)}, "images are bool"),
        # Labels that would make classes nobody has an example of.
        (
            {"train_labels": np.arange(12) % 10 + 1, "test_labels": np.arange(5) + 1},
            "10 different values from 1 to 10, which would be 11 classes, of which 0 "
            "has no example. They start at 1: subtract 1",
        ),
        (
            {"train_labels": np.arange(12) % 4 * 100 + 100},
            r"401 classes, of which 0, 1, 2, 3, 4, \.\.\. have .*Number them: labels",
        ),
        ({"train_labels": np.arange(12) * 0 + 1}, "1 to 1, which would be 2 classes"),
        # Channels first.
        (
            {"train_images": np.zeros((12, 3, 8, 8), np.uint8)},
            r"3 x 8 pixels with 8 channels.*images.transpose\(0, 2, 3, 1\)",
        ),
        (
            {"test_images": np.zeros((5, 1, 28, 20), np.uint8)},
            r"test_images are \(5, 1, 28, 20\), which would",
        ),
        (
            {"train_images": np.zeros((12, 2, 8, 8), np.uint8)},
            r"2 x 8 pixels with 8 channels.*images.transpose\(0, 2, 3, 1\)",
        ),
        ({"train_labels": np.zeros(11, int)}, r"train_labels are \(11,\)"),
        ({"train_labels": np.zeros(12)}, "labels have dtype float64"),
        ({"train_labels": np.array(["cat"] * 12)}, "labels have dtype <U3"),
        ({"train_images": np.zeros((0, 6, 5, 3), np.uint8)}, r"train_labels are \(12,"),
        ({"train_labels": np.arange(12) - 1}, "train_labels: example 0 has label -1"),
        ({"test_labels": np.arange(5)}, "test_labels: example 4 has label 4"),
        (
            {"test_images": np.arange(540).astype(np.uint8).reshape(5, 6, 6, 3)},
            r"are \(6, 6, 3\)",
        ),
        ({"train_labels": np.array([{}] * 12)}, "arrays: it holds Python objects"),
    ],
)
def test_wrong_arrays_are_named(write, changes, message):
    with pytest.raises(UserError, match=message):
        npz.load(write(**changes))


def test_wrong_number_of_class_names(write):
    with pytest.raises(UserError, match="2 class_names were given, expected 4"):
        npz.load(write(), class_names=("a", "b"))


def test_class_names_that_cannot_be_told_apart(write):
    with pytest.raises(UserError, match=r"class names has b twice"):
        npz.load(write(), class_names=("a", "b", "c", "b"))


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.6, 0.95])
def test_damaged_file(write, tmp_path, keep):
    path = write()
    with open(path, "rb") as file:
        content = file.read()
    cut = keep if isinstance(keep, int) else int(keep * len(content))
    with open(path, "wb") as file:
        file.write(content[:cut])
    with pytest.raises(UserError, match=r"mine.npz.* cannot be read"):
        npz.load(path)


def test_flipped_bytes_are_noticed(write):
    path = write()
    with open(path, "rb") as file:
        content = bytearray(file.read())
    middle = len(content) // 3
    content[middle : middle + 40] = bytes(40)
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match=r"mine.npz.* cannot be read"):
        npz.load(path)


def test_missing_file_and_other_formats(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        npz.load(str(tmp_path / "none.npz"))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="cannot be read"):
        npz.load(str(tmp_path / "one.npy"))
