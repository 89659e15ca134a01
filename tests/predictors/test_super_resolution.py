"""Tiles: joined, they are the whole, whatever the size."""

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.predictors import super_resolution


@pytest.mark.parametrize("shape", [(8, 8), (5, 3), (17, 23), (9, 40)])
@pytest.mark.parametrize("overlap", [0, 3])
def test_tiles_of_a_pointwise_function_join_without_a_seam(shape, overlap):
    image = np.random.default_rng(0).normal(size=(*shape, 3))
    seen = []

    def double(patch):
        seen.append(patch.shape)
        return 2 * patch.repeat(2, 0).repeat(2, 1)

    found = super_resolution.in_tiles(double, image, scale=2, tile=8, overlap=overlap)
    np.testing.assert_allclose(found, 2 * image.repeat(2, 0).repeat(2, 1), 1e-9, 1e-12)
    assert set(seen) == {(8, 8, 3)}  # one shape: compiled once


def test_neighbouring_tiles_fade():
    """Each tile answers its number: between two, the answer goes over linearly."""
    numbers = iter(range(9))
    found = super_resolution.in_tiles(
        lambda patch: np.full((8, 8, 1), float(next(numbers))),
        np.zeros((8, 12, 1)),
        scale=1,
        tile=8,
        overlap=4,
    )
    expected = [0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]
    np.testing.assert_allclose(found[4, :, 0], expected, atol=1e-9)


def test_tiles_that_do_not_advance():
    with pytest.raises(UserError, match="from 0 to half of the tile"):
        super_resolution.in_tiles(None, np.zeros((4, 4, 3)), scale=2, tile=8, overlap=5)
