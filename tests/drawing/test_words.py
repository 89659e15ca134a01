"""Drawn words: characters in their places, reproducible."""

import numpy as np

from jaxkd.datasets import words as data
from jaxkd.drawing import words


def test_characters_share_the_line_and_blanks_stay_empty():
    lines = np.array([[10, 11, 12, 13], [10, -1, -1, -1]] * 6)
    images = words.draw_words(
        lines, height=16, width=64, rng=np.random.default_rng(0)
    ).astype(float)
    assert images.shape == (12, 16, 64, 3)
    # Contrast in each eighth of a full line; of one character in the middle alone.
    edges = np.abs(np.diff(images, axis=2, append=images[:, :, -1:])).mean((1, 3))
    full, single = (edges[i::2].reshape(6, 4, 16).mean((0, 2)) for i in (0, 1))
    assert full.min() > 0.6 * full.max()
    middle = edges[1::2, 26:38].mean()
    assert middle > 1.5 * max(single[0], single[3])


def test_the_data_set_is_reproducible_and_encodes_its_words():
    first = data.load(train=8, test=6, least=2, most=4)
    source = first.train(0)
    assert source.arrays["tokens"].shape == (8, 5)
    lengths, tokens = source.arrays["length"], source.arrays["tokens"]
    for length, row in zip(lengths, tokens, strict=True):
        assert (row[: length - 1] > 0).all() and not row[length - 1 :].any()
    data._draw.cache_clear()
    again = data.load(train=8, test=6, least=2, most=4).train(0)
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
    assert first.info.num_classes == len(words.ALPHABET) + 1
    assert (first.test.arrays["tokens"] != tokens[:6]).any()
