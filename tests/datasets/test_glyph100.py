import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import glyph100


def arrays(source):
    return source.arrays["image"], source.arrays["label"]


def load(**options):
    return glyph100.load(**({"train": 400, "test": 200} | options))


def different(first, second):
    """Whether no image of the first is in the second."""
    seen = {image.tobytes() for image in second}
    return not any(image.tobytes() in seen for image in first)


def test_pool_and_test_are_balanced_and_disjoint():
    dataset = load()
    images, labels = arrays(dataset.train(0))
    test_images, test_labels = arrays(dataset.test)
    assert images.shape == (400, 16, 16, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), 4)
    np.testing.assert_array_equal(np.bincount(test_labels), 2)
    assert different(images, test_images)
    assert len({image.tobytes() for image in images}) == 400
    assert labels.dtype == np.int32


def test_pool_ignores_the_training_seed_but_not_the_seed():
    first = arrays(load().train(0))[0]
    np.testing.assert_array_equal(arrays(load().train(5))[0], first)
    assert different(arrays(load(seed=1).train(0))[0], first)
    assert different(arrays(load(seed=1).test)[0], arrays(load().test)[0])


def test_smaller_split_is_the_beginning():
    small = arrays(load(train=100).train(0))[0]
    np.testing.assert_array_equal(small, arrays(load().train(0))[0][:100])


def test_every_training_seed_has_its_own_few_images():
    dataset = load(train=None, per_class=3)
    draws = [dataset.train(seed) for seed in (1, 2)]
    for images, labels in map(arrays, draws):
        np.testing.assert_array_equal(np.bincount(labels), 3)
        assert different(images, arrays(load().train(0))[0])
        assert different(images, arrays(dataset.test)[0])
    assert different(*(arrays(draw)[0] for draw in draws))
    again = load(train=None, per_class=3).train(2)
    np.testing.assert_array_equal(arrays(again)[0], arrays(draws[1])[0])


@pytest.mark.parametrize("classes", [12, 4])
def test_shifted_labels_move_that_many_classes_of_the_pool_only(classes):
    chosen = {} if classes == 12 else {"shifted": classes}
    dataset, clean = load(labels="shifted", **chosen), load()
    images, labels = arrays(dataset.train(0))
    clean_images, clean_labels = arrays(clean.train(0))
    np.testing.assert_array_equal(images, clean_images)
    wanted = [(k + 1) % classes if k < classes else k for k in clean_labels]
    np.testing.assert_array_equal(labels, wanted)
    np.testing.assert_array_equal(arrays(dataset.test)[1], arrays(clean.test)[1])


def test_validation_images_are_others():
    validation = load(evaluate_on="validation")
    assert different(arrays(validation.test)[0], arrays(load().test)[0])
    assert different(arrays(validation.test)[0], arrays(load().train(0))[0])


@pytest.mark.parametrize("size", [16, 32])
def test_info_describes_the_images(size):
    dataset = load(size=size, train=2000)
    info, images = dataset.info, arrays(dataset.train(0))[0]
    assert info.image_shape == images.shape[1:]
    assert info.class_names[0] == "0" and len(info.class_names) == info.num_classes
    np.testing.assert_allclose(info.mean, (images / 255).mean((0, 1, 2)), atol=0.02)
    np.testing.assert_allclose(info.std, (images / 255).std((0, 1, 2)), atol=0.02)


def test_arrays_are_shared_so_they_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        arrays(load().test)[0][0] = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 17}, "size is 17, expected one of 16, 32"),
        ({"train": 150}, "train is 150, expected a positive multiple of 100"),
        ({"test": 0}, "test is 0, expected a positive multiple"),
        ({"labels": "biased"}, "labels is 'biased', expected one of clean, shifted"),
        ({"labels": "shifted", "shifted": 1}, "shifted is 1, expected 2 to 100"),
        ({"evaluate_on": "train"}, "evaluate_on is 'train'"),
        ({"per_class": 0}, "per_class is 0, expected at least 1"),
        ({"per_class": 5}, "per_class=5 replaces the pool"),
        ({"per_class": 5, "train": None, "labels": "shifted"}, "'shifted'"),
    ],
)
def test_impossible_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        load(**options)
