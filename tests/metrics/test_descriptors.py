"""Hand-crafted descriptors: on figures whose bits are known, and against loops."""

import doctest

import numpy as np
import pytest

from jaxkd.metrics import descriptors

CELLS = 16


def _bits(ink):
    bits = descriptors.gsc_style(ink[None])[0]
    parts = np.split(bits, [12 * CELLS, 24 * CELLS])
    return [part.reshape(CELLS, -1) for part in parts]


def _bar(horizontal):
    ink = np.zeros((40, 40), np.float32)
    ink[18:22, 4:36] = 1
    return ink if horizontal else ink.T


def test_layout():
    bits = descriptors.gsc_style(np.random.default_rng(0).uniform(size=(3, 32, 32)))
    assert bits.shape == (3, 512) and bits.dtype == bool
    assert descriptors.gsc_style(np.zeros((1, 32, 32))).sum() == 0


def test_a_bar_has_two_edges_and_long_strokes():
    for horizontal in (True, False):
        gradient, structure, concavity = _bits(_bar(horizontal))
        # Downwards in rows is a quarter turn: bin 3; its opposite edge, 9.
        expected = {3, 9} if horizontal else {0, 6}
        assert set(np.flatnonzero(gradient.sum(0) >= 4)) == expected
        strokes = {2, 6} if horizontal else {0, 4}
        assert set(np.flatnonzero(structure[:, :8].sum(0) >= 4)) == strokes
        long = concavity[:, 1:3].sum(0)
        assert long[0 if horizontal else 1] == 16
        assert not concavity[:, 3:].any()


def test_bays_and_holes():
    ink = np.zeros((32, 32), np.float32)
    ink[6:26, 6:26] = 1
    ink[9:23, 9:23] = 0
    assert list(_bits(ink)[2][:, 3:].any(0)) == [False] * 4 + [True]  # a ring
    for name, opening in enumerate(
        [
            (slice(6, 9), slice(9, 23)),  # up
            (slice(23, 26), slice(9, 23)),
            (slice(9, 23), slice(6, 9)),  # left
            (slice(9, 23), slice(23, 26)),
        ]
    ):
        bay = ink.copy()
        bay[opening] = 0
        found = _bits(bay)[2][:, 3:].any(0)
        assert list(found) == [k == name for k in range(5)]


def test_bits_move_with_the_word():
    """Cells follow the ink, so a shift changes nothing but rounding."""
    rng = np.random.default_rng(0)
    ink = np.zeros((48, 48), np.float32)
    ink[10:30, 10:30] = np.kron(rng.uniform(size=(5, 5)) > 0.5, np.ones((4, 4)))
    moved = np.roll(ink, (7, 5), axis=(0, 1))
    one, other = descriptors.gsc_style(np.stack([ink, moved]))
    # The outer cells end at the border, which moved: density bits may differ.
    assert (one != other).mean() < 0.01 and one.mean() > 0.1


def test_similarity_is_the_correlation_of_bits():
    a, b = np.random.default_rng(0).uniform(size=(2, 5, 200)) > 0.4
    found = descriptors.binary_similarity(a, b)
    exact = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, 0.5 + 0.5 * np.array(exact), 1e-10)
    assert descriptors.binary_similarity(np.ones(4, bool), a[0, :4]) == 0.5


def test_hog():
    pytest.importorskip("skimage")
    ink = np.stack([_bar(True), _bar(False)])
    rows = descriptors.hog(np.pad(ink, ((0, 0), (12, 12), (12, 12))))
    assert rows.shape == (2, 1764)
    # Unsigned orientations of gradients: bin 4 is vertical, bin 0 horizontal.
    energy = rows.reshape(2, -1, 9).sum(1)
    assert list(energy.argmax(1)) == [4, 0]


def test_ink_and_examples():
    images = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    assert descriptors.ink_of(images).ravel().tolist() == [1, 0]
    assert not doctest.testmod(descriptors).failed
