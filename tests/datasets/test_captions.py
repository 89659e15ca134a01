import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import captions
from jaxkd.drawing import scenes


def test_images_show_their_captions():
    data = captions.load(train=50, test=10, seed=3)
    source = data.train(0)
    assert (len(source), len(data.test)) == (50, 10)
    images = np.stack([source[i]["image"] for i in range(50)])
    tokens = np.stack([source[i]["tokens"] for i in range(50)])
    assert images.dtype == np.uint8
    found = scenes.read(images / 255)
    for i in range(50):
        words = [scenes.WORDS[t] for t in tokens[i] if t > 1]
        assert words[1] == scenes.COLOUR_NAMES[found.colour[i, 0]]
        assert words[-2] == scenes.BACKGROUND_NAMES[found.background[i]]
        assert ("left" in words) == found.present[i, 1]
    again = captions.load(train=50, test=10, seed=3).train(0)
    np.testing.assert_array_equal(again[7]["image"], source[7]["image"])


def test_impossible_sizes():
    with pytest.raises(UserError, match="train=0"):
        captions.load(train=0)
