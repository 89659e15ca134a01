import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.source import (
    ArraySource,
    CheckedSource,
    Dataset,
    Info,
    check_labels,
    check_layout,
    check_shades,
    statistics,
)

INFO = Info("toy", 3, (2, 2, 1), (0.5,), (0.5,), ("a", "b", "c"))


def test_array_source_indexes_every_array():
    source = ArraySource({"image": np.arange(6).reshape(3, 2), "label": np.arange(3)})
    assert len(source) == 3
    example = source[1]
    np.testing.assert_array_equal(example["image"], [2, 3])
    assert example["label"] == 1


def test_preparation_is_the_identity_unless_given():
    source = ArraySource({"label": np.arange(3)})
    dataset = Dataset(INFO, lambda seed: source, source)
    example = {"label": np.int32(2)}
    assert dataset.prepare_train(example, np.random.default_rng(0)) is example
    assert dataset.prepare_test(example) is example


def test_labels_become_int32():
    labels = check_labels(np.array([0, 2], np.int64), 3, "here")
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, [0, 2])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], "here: labels have dtype float64, expected integers"),
        ([0, 3, 5], r"example 1 has label 3, expected 0 to 2 \(2 such labels\)"),
        ([0, 1, -1], "example 2 has label -1"),
    ],
)
def test_wrong_labels_are_named(labels, message):
    with pytest.raises(UserError, match=message):
        check_labels(np.array(labels), 3, "here")


@pytest.mark.parametrize("label", [3, -1, 1.0, [1]])
def test_checked_source_names_the_example(label):
    label = np.asarray(label)
    source = CheckedSource(ArraySource({"label": np.stack([label] * 5)}), INFO)
    assert len(source) == 5
    with pytest.raises(UserError, match="toy: example 4 has label"):
        source[4]


def test_checked_source_passes_the_rest_through():
    arrays = {"label": np.array([0, 2], np.uint8), "name": np.array(["x", "y"])}
    example = CheckedSource(ArraySource(arrays), INFO)[1]
    assert example["label"] == 2 and example["label"].dtype == np.int32
    assert example["name"] == "y"


def test_statistics_match_numpy():
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), np.uint8)
    mean, std = statistics(images, "here")
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize(
    "shape",
    [
        *((9, 3, 8, 8), (9, 1, 28, 20), (9, 4, 5, 6), (9, 3, 300, 224)),
        *((9, 2, 28, 28), (9, 5, 6, 6), (0, 5, 224, 224), (9, 3, 6, 6)),
    ],
)
def test_evident_channels_first(shape):
    with pytest.raises(UserError, match=r"transpose\(0, 2, 3, 1\)"):
        check_layout(shape, "mine")


@pytest.mark.parametrize(
    "shape",
    [
        *((9, 8, 8, 3), (9, 28, 20, 1), (9, 6, 6, 5), (9, 5, 5, 5), (9, 224, 224, 12)),
        # It may be either; see the docstring.
        *((9, 3, 4, 4), (9, 2, 28, 20), (9, 3, 8, 3), (9, 1, 28, 3)),
        *((9, 3, 8), (9, 3, 8, 8, 8)),
    ],
)
def test_images_that_may_be_channels_last(shape):
    check_layout(shape, "mine")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 6), (249, 255), (9, 9)])
def test_uint8_images_of_few_shades_are_refused(low, high):
    images = np.full((3, 4, 4, 1), low, np.uint8)
    images[1, 2] = high
    message = rf"mine are uint8 from {low} to {high}, expected 0 to 255.*divided by 255"
    for check in (check_shades, statistics):
        with pytest.raises(UserError, match=message):
            check(images, "mine")
    images[1, 2] = low + 7 if low < 200 else low - 7
    check_shades(images, "mine")


def test_a_constant_channel_is_refused():
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), np.uint8)
    images[..., 1] = 9
    with pytest.raises(UserError, match=r"here: channel 1 .* is 9 everywhere"):
        statistics(images, "here")
