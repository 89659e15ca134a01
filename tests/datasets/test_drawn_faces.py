"""Drawn faces and textures: repeatable, balanced, told apart for the right reason."""

import jax
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import faces, textures
from jaxkd.drawing import faces as face_images
from jaxkd.readers.identity_pairs import pairs_of

SIZE = 16  # smaller than ever used, to be quick


@pytest.fixture(scope="module")
def bank():
    """Ten images of each of twelve people, without noise and light."""
    key = jax.random.key(3, impl="threefry2x32")
    people = face_images.draw_identities(key, 0, 12)
    law = face_images.Law(noise=0.0, light=0.0, exposure=0.0, blur=0.0)
    rows = np.tile(people, (10, 1))
    return key, people, face_images.draw_images(key, rows, SIZE, law), law


@pytest.mark.slow
def test_an_image_depends_on_the_key_its_person_and_its_place(bank):
    key, people, images, law = bank
    fewer = face_images.draw_images(key, np.tile(people, (2, 1)), SIZE, law)
    np.testing.assert_array_equal(fewer, images[:24])
    other = face_images.draw_images(jax.random.key(4), people, SIZE, law)
    assert (other != images[:12]).mean() > 0.3
    again = face_images.draw_identities(key, 5, 2)
    np.testing.assert_array_equal(again, people[5:7])
    assert np.abs(people).max() < 1 and len(np.unique(people[:, 0])) == 12


def test_images_of_one_person_are_more_alike(bank):
    """In the middle, where the face is and the backdrop is not."""
    images = bank[2][:, 5:11, 5:11].reshape(120, -1).astype(float)
    distance = np.linalg.norm(images[:, None] - images[None], axis=-1)
    label = np.tile(np.arange(12), 10)
    same = label[:, None] == label[None]
    others = ~np.eye(120, dtype=bool)
    assert distance[same & others].mean() < 0.8 * distance[~same].mean()


def test_without_spread_all_people_are_alike(bank):
    key, people, images, law = bank
    one = face_images.draw_images(key, people, SIZE, law._replace(spread=0.0))
    never_stop = face_images.draw_images(key, 0 * people, SIZE, law)
    np.testing.assert_array_equal(one, never_stop)
    assert (one != images[:12]).any()


@pytest.mark.slow
def test_edges_are_blended():
    """A larger image, averaged, is nearly the smaller one."""
    key = jax.random.key(0)
    people = face_images.draw_identities(key, 0, 4)
    law = face_images.Law(noise=0.0, blur=0.0)
    small, large = (face_images.draw_images(key, people, n, law) for n in (16, 32))
    averaged = large.reshape(4, 16, 2, 16, 2, 3).mean((2, 4))
    difference = np.abs(averaged - small)
    assert difference.mean() < 4 and np.quantile(difference, 0.99) < 40


@pytest.fixture(scope="module")
def dataset():
    return faces.load(size=SIZE, per_identity=4, pairs=100)


def test_people_of_the_test_are_others(dataset):
    train = dataset.train(0).arrays["label"]
    test = dataset.test.arrays["label"]
    assert np.bincount(train).tolist() == [4] * 200
    assert np.bincount(test)[200:].tolist() == [4] * 50 and test.min() == 200
    assert dataset.info.num_classes == len(dataset.info.class_names) == 250
    pairs = pairs_of(dataset.test)
    assert (len(pairs.same), pairs.same.sum(), pairs.fold.max()) == (100, 50, 9)
    np.testing.assert_array_equal(test[pairs.first] == test[pairs.second], pairs.same)


def test_seen_people_and_validation(dataset):
    seen = faces.load(size=SIZE, per_identity=4, test="seen")
    np.testing.assert_array_equal(
        seen.test.arrays["label"], dataset.train(0).arrays["label"]
    )
    assert (seen.test.arrays["image"] != dataset.train(0).arrays["image"]).mean() > 0.3
    assert pairs_of(seen.test) is None
    other = faces.load(size=SIZE, per_identity=4, pairs=100, evaluate_on="validation")
    np.testing.assert_array_equal(
        other.test.arrays["label"], dataset.test.arrays["label"]
    )
    assert (other.test.arrays["image"] != dataset.test.arrays["image"]).mean() > 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size is 4, expected at least 8"),
        ({"per_identity": 1}, "per_identity is 1, expected at least 2"),
        ({"spread": 0.0}, "spread is 0.0, expected a positive number"),
        ({"test": "both"}, "test is 'both', expected one of unseen, seen"),
    ],
)
def test_wrong_options_of_faces(options, message):
    with pytest.raises(UserError, match=message):
        faces.load(**options)


def test_too_many_pairs():
    with pytest.raises(UserError, match="Fold 0 has only 30 pairs of one identity"):
        faces.load(size=SIZE, per_identity=4, pairs=3000)


def test_textures_have_the_waves_of_their_class():
    """The strongest frequency of the mean spectrum is that of the class."""
    examples = textures.load(train=12, test=480, noise=0.3).test.arrays
    grey = examples["image"].mean(-1)
    grey -= grey.mean((1, 2), keepdims=True)
    spectrum = np.abs(np.fft.fft2(grey)) ** 2
    down, across = np.meshgrid(*(np.fft.fftfreq(64, 1 / 64),) * 2, indexing="ij")
    for label in range(12):
        power = spectrum[examples["label"] == label].sum(0)
        radius = np.hypot(down, across)
        middle = np.exp((power * np.log(radius + 1e-9)).sum() / power.sum())
        wanted = textures.FREQUENCIES[label % 3]
        assert abs(np.log(middle / wanted)) < 0.35
        # Twice the angle, since a wave has no front.
        double = np.angle((power * np.exp(2j * np.arctan2(down, across))).sum())
        off = double - 2 * np.deg2rad(textures.DIRECTIONS[label // 3])
        assert abs((off + np.pi) % (2 * np.pi) - np.pi) < 0.2


def test_splits_of_textures():
    dataset = textures.load(size=32, train=24, test=24)
    train, test = dataset.train(0), dataset.test
    assert train.arrays["label"].tolist() == [*range(12), *range(12)]
    assert (train.arrays["image"] != test.arrays["image"]).mean() > 0.5
    assert dataset.train(1).arrays["image"] is train.arrays["image"]
    few = textures.load(size=32, test=24, per_class=3)
    one, other = (few.train(seed).arrays["image"] for seed in (1, 2))
    assert one.shape == (36, 32, 32, 3) and (one != other).mean() > 0.5
    again = textures.load(size=32, test=24, per_class=3).train(1).arrays["image"]
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, "size is 16, expected at least 32"),
        ({"train": 100}, "train is 100, expected a positive multiple of 12"),
        ({"per_class": 0}, "per_class is 0, expected at least 1"),
        ({"evaluate_on": "train"}, "evaluate_on is 'train', expected one of"),
    ],
)
def test_wrong_options_of_textures(options, message):
    with pytest.raises(UserError, match=message):
        textures.load(**options)
