"""Drawn handwriting as a data set: who is in it, pairs by seed, the cache."""

import numpy as np
import pytest

from jaxkd import datasets
from jaxkd.core.errors import UserError
from jaxkd.datasets import handwriting
from jaxkd.metrics import pairs
from jaxkd.train import train
from tests.test_configs import MODULES

SMALL = {"size": 16, "writers": 12, "test_writers": 4, "samples": 3}


def load(**options):
    return datasets.load("handwriting", **SMALL | options)


def test_images_of_all_writers():
    data = load(attributes=True)
    train = data.train(0).arrays
    assert train["image"].shape == (36, 16, 16, 1)
    assert train["parameters"].shape == (36, 24)
    assert data.info.num_classes == 0
    test = data.test.arrays["image"]
    validation = load(evaluate_on="validation").test.arrays["image"]
    assert test.shape == (12, 16, 16, 1) and np.any(test != validation)


def test_every_seed_labels_writers_of_its_own():
    data = load(task="pairs", labelled=0.25)
    chosen = []
    for seed in range(4):
        source = data.train(seed)
        writers = source.arrays["writers"]
        same = source.arrays["label"] == 1
        np.testing.assert_array_equal(writers[:, 0] == writers[:, 1], same)
        assert len(np.unique(writers)) == 3 and same.sum() == 9
        chosen.append(tuple(np.unique(writers)))
        image = source.words.image[source.table.second]
        np.testing.assert_array_equal(source.arrays["other"], image)
    assert len(set(chosen)) > 1
    ordered = load(task="pairs", labelled=0.25, order="sorted").train(1)
    assert set(ordered.arrays["writers"].ravel()) == {0, 1, 2}
    # As many of both kinds in the test, and mixed.
    label = data.test.arrays["label"]
    assert label.mean() == 0.5
    assert 0 < label[: len(label) // 2].mean() < 1
    # A share of 0.55 of 100 is 55.00000000000001.
    many = load(task="pairs", labelled=0.55, writers=100, samples=2, size=4)
    assert len(np.unique(many.train(0).arrays["writers"])) == 55


def test_the_cache_gives_the_same_words(tmp_path):
    first = load(cache=str(tmp_path), seed=5).train(0).arrays["image"]
    files = sorted(tmp_path.glob("handwriting-*.npz"))
    assert len(files) == 2  # training and test writers
    handwriting._draw.cache_clear()
    again = load(cache=str(tmp_path), seed=5).train(0).arrays["image"]
    np.testing.assert_array_equal(first, again)
    handwriting._draw.cache_clear()
    np.testing.assert_array_equal(load(seed=5).train(0).arrays["image"], first)


def test_errors():
    with pytest.raises(UserError, match="labelled is 0"):
        load(labelled=0)
    with pytest.raises(UserError, match="task is 'words'"):
        load(task="words")
    with pytest.raises(UserError, match="samples is 0, expected a whole number > 0"):
        load(samples=0)


def test_raw_pixels_are_no_verifier():
    """The default difficulty: raw pixels stay below .72, and above chance."""
    data = datasets.load("handwriting", task="pairs", size=32, writers=60)
    train, test = data.train(0), data.test

    def similarity(source):
        a, b = (source.arrays[k].astype(float) for k in ("image", "other"))
        return -((a - b) ** 2).mean((1, 2, 3))

    threshold = pairs.best_threshold(similarity(train), train.arrays["label"] == 1)
    accepted = similarity(test) > threshold
    accuracy = np.mean(accepted == (test.arrays["label"] == 1))
    assert 0.55 < accuracy < 0.72


@pytest.mark.slow
def test_a_small_network_is_a_verifier(tmp_path):
    """The default difficulty: a small network is above .75 on unseen writers."""
    config = MODULES["ssl_hv"].verification(labelled=1.0)
    config.seeds = (0,)
    (student,) = train(config, tmp_path)["students"].values()
    assert student["last"]["cosine_accuracy"][0] > 75
