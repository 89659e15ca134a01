"""Folders of photographs: aligned crops, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.datasets import image_pairs


def write(path, shape, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    small = write(tmp_path / "train_low/a/x.png", (11, 14, 3))
    large = small.repeat(2, 0).repeat(2, 1)
    large = np.pad(large, ((0, 1), (0, 0), (0, 0)))  # an odd side
    (tmp_path / "train/a").mkdir(parents=True)
    Image.fromarray(large).save(tmp_path / "train/a/x.png")
    write(tmp_path / "test/y.png", (16, 20, 3))
    write(tmp_path / "test_low/y.png", (8, 10, 3))
    return tmp_path


def test_crops_of_both_sizes_show_the_same_place(folder):
    data = image_pairs.load(str(folder), size=8, low=True)
    example, places = data.train(0)[0], set()
    for seed in range(20):
        cut = data.prepare_train(example, np.random.default_rng(seed))
        assert cut["image"].shape == (8, 8, 3) and cut["low"].shape == (4, 4, 3)
        np.testing.assert_array_equal(cut["image"][::2, ::2], cut["low"])
        places.add(cut["image"].tobytes())
    assert len(places) > 10
    middle = data.prepare_test(data.test[0])
    np.testing.assert_array_equal(middle["image"], data.test[0]["image"][4:12, 6:14])
    alone = image_pairs.load(str(folder), size=8)
    assert set(alone.fields) == {"image"} == set(alone.train(0)[0])


def test_what_is_refused(folder):
    data = image_pairs.load(str(folder), size=24)
    with pytest.raises(UserError, match=r"x\.png has 23 x 28 pixels, .* at least 24"):
        data.train(0)[0]
    with pytest.raises(UserError, match="expected a multiple of it"):
        image_pairs.load(str(folder), size=9)
    with pytest.raises(UserError, match=r"expected 7 x 9: 1/3 of the sides"):
        image_pairs.load(str(folder), size=9, scale=3, low=True).train(0)[0]
    write(folder / "train/b.png", (16, 16, 3))
    with pytest.raises(UserError, match=r"1 of 2 missing"):
        image_pairs.load(str(folder), size=8, low=True)
    with pytest.raises(UserError, match="expected train and one of"):
        image_pairs.load(str(folder / "train"))
