"""Smoothed regions: where, how strongly, and that nothing is invented."""

import numpy as np
import pytest

from jaxkd.datasets import hard_negatives

pytest.importorskip("cv2")

SIZE = 40


def photograph():
    """A slope with noise: smoothing takes the noise and leaves the slope."""
    y, x = np.mgrid[:SIZE, :SIZE]
    slope = (60 + 2 * x + y)[..., None] + np.array([0, 10, 20])
    grain = np.random.default_rng(0).normal(0, 6, (SIZE, SIZE, 3))
    return np.clip(np.round(slope + grain), 0, 255).astype(np.uint8), slope


def mask():
    region = np.zeros((SIZE, SIZE), np.uint8)
    region[8:30, 10:32] = 255
    return region


@pytest.mark.parametrize("kind", hard_negatives.KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_region_loses_its_noise_and_keeps_its_content(kind, seed):
    image, slope = photograph()
    smoothed = hard_negatives.smooth(image, mask(), kind, np.random.default_rng(seed))
    inside = mask() > 0
    np.testing.assert_array_equal(smoothed[~inside], image[~inside])
    assert (smoothed[inside] != image[inside]).any()
    before, after = (np.abs(x - slope)[12:26, 14:28].mean() for x in (image, smoothed))
    assert after < before and after < 6


@pytest.mark.parametrize("kind", hard_negatives.KINDS)
def test_equal_seeds_smooth_alike(kind):
    image, _ = photograph()

    def draw(seed):
        return hard_negatives.smooth(image, mask(), kind, np.random.default_rng(seed))

    np.testing.assert_array_equal(draw(1), draw(1))
    assert any((draw(1) != draw(seed)).any() for seed in range(2, 6))
