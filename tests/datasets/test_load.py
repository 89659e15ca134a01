import numpy as np
import pytest

from jaxkd import datasets
from jaxkd.core.errors import UserError


def test_data_sets_are_found_by_name():
    dataset = datasets.load("digits", seed=3)
    assert dataset.info.name == "digits"


def test_unknown_name_lists_the_data_sets():
    with pytest.raises(UserError) as error:
        datasets.load("glyph10")
    message = str(error.value)
    assert "did you mean 'glyph100'" in message
    for name in ("cifar", "digits", "faces", "folder", "glyph100", "npz", "tfds"):
        assert f"{name}, " in message or f"{name} (" in message


def test_unknown_option_lists_the_options():
    with pytest.raises(UserError, match=r"'digits' has no option 'sed'.*seed"):
        datasets.load("digits", sed=1)


def test_missing_option_is_named():
    with pytest.raises(UserError, match="'npz' needs path"):
        datasets.load("npz")


def test_digits_are_split_by_class_and_seed():
    from sklearn.datasets import load_digits

    digits = load_digits()
    dataset = datasets.load("digits")
    train, test = dataset.train(0).arrays, dataset.test.arrays
    assert (len(train["label"]), len(test["label"])) == (1257, 540)
    for part, fraction in ((train, 0.7), (test, 0.3)):
        counts = np.bincount(part["label"], minlength=10)
        np.testing.assert_allclose(
            counts, fraction * np.bincount(digits.target), atol=1.0
        )
    # Together they are the whole set, each image once.
    ours = np.concatenate([train["image"], test["image"]])[..., 0].reshape(-1, 64)
    theirs = np.round(digits.data * 255 / 16).astype(np.uint8)
    rows = {tuple(row) for row in ours}
    assert rows == {tuple(row) for row in theirs}
    assert ours.max() == 255
    other = datasets.load("digits", seed=1).test.arrays["image"]
    assert not np.array_equal(other, test["image"])
    again = datasets.load("digits", seed=0).test.arrays["image"]
    np.testing.assert_array_equal(again, test["image"])


def test_statistics_are_of_the_training_images():
    dataset = datasets.load("digits")
    images = dataset.train(0).arrays["image"] / 255.0
    np.testing.assert_allclose(dataset.info.mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.info.std, images.std((0, 1, 2)), rtol=1e-12)
