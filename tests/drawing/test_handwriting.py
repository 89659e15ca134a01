"""Drawn handwriting: the pen's coverage, the curves, and what the numbers mean."""

import numpy as np
import pytest

from jaxkd.drawing import and_strokes
from jaxkd.drawing import handwriting as drawing

NAMES = list(drawing.PARAMETERS)


def _column(samples, name):
    return samples.sample_parameters[:, NAMES.index(name)]


@pytest.fixture(scope="module")
def drawn():
    return drawing.draw_writers(30, 4, side=32)


def test_curves_are_the_cubic_through_the_points():
    """Straight, evenly spaced points give a straight line; slopes are central."""
    points = np.random.default_rng(0).normal(size=(2, 5, 2))
    curve = and_strokes.catmull_rom(points, samples=100)
    np.testing.assert_allclose(curve[:, ::100], points, atol=1e-12)
    slope = (curve[:, 101] - curve[:, 99]) / 0.02
    np.testing.assert_allclose(slope, (points[:, 2] - points[:, 0]) / 2, atol=0.05)
    line = np.linspace(0, 4, 5)[:, None] * np.ones(2)
    straight = and_strokes.catmull_rom(line[None], samples=4)[0]
    np.testing.assert_allclose(straight[4:13, 0], np.linspace(1, 3, 9), atol=1e-12)


def test_coverage_is_the_area_under_the_pen():
    """Against a drawing of 8 x 8 points for each pixel."""
    path = np.array([[[3.2, 4.1], [9.7, 6.3], [8.1, 12.6]]])
    part = {"pen": np.array([9.6]), "pressure": np.array([0.0])}
    ink = drawing._cover(path * 4, [3], part, 64)[0]
    fine = (np.arange(64 * 8) + 0.5) / 8
    points = np.stack(np.meshgrid(fine, fine), axis=-1)
    nearest = np.full(points.shape[:2], np.inf)
    for a, b in ((path[0, 0], path[0, 1]), (path[0, 1], path[0, 2])):
        a, b = 4 * a, 4 * b
        share = np.clip((points - a) @ (b - a) / np.sum((b - a) ** 2), 0, 1)
        foot = a + share[..., None] * (b - a)
        nearest = np.minimum(nearest, np.linalg.norm(points - foot, axis=-1))
    area = (nearest < 4.8).reshape(64, 8, 64, 8).mean(axis=(1, 3))
    assert abs(ink - area).max() < 0.15  # at corners; edges are one pixel wide
    assert abs(ink.sum() - area.sum()) / area.sum() < 0.005


def test_a_writer_depends_on_seed_and_number_alone(drawn):
    part = drawing.draw_writers(2, 3, side=32, first=7)
    rows = np.flatnonzero(np.isin(drawn.writer, [7, 8])).reshape(2, 4)[:, :3].ravel()
    np.testing.assert_array_equal(part.image, drawn.image[rows])
    np.testing.assert_array_equal(part.writer, [7, 7, 7, 8, 8, 8])
    np.testing.assert_array_equal(part.writer_parameters, drawn.writer_parameters[7:9])
    other = drawing.draw_writers(1, 1, side=32, first=7, seed=1)
    assert np.any(other.sample_parameters != part.sample_parameters[:1])


def test_samples_scatter_around_their_writer(drawn):
    hands = drawn.writer_parameters[drawn.writer]
    std = np.array([p.std for p in drawing.PARAMETERS.values()])
    spread = ((drawn.sample_parameters - hands) / std).std(axis=0)
    # Clipping at a parameter's limits takes some of the half that intra asks for.
    assert np.all((spread > 0.2) & (spread < 0.65))
    low, high = np.array([p[2:] for p in drawing.PARAMETERS.values()]).T
    assert np.all(drawn.sample_parameters >= low.astype(np.float32))
    assert np.all(drawn.sample_parameters <= high.astype(np.float32))
    still = drawing.draw_writers(2, 2, side=32, intra=0.0)
    np.testing.assert_array_equal(*still.sample_parameters.reshape(2, 2, -1)[0])


def _shear(image):
    """The slope of the ink's regression of x on height, by its second moments."""
    ink = 1 - image[..., 0] / 255
    ink = np.where(ink > 0.2, ink, 0)
    y, x = np.mgrid[: ink.shape[1], : ink.shape[2]]
    mass = ink.sum((1, 2))
    mean = [(ink * axis).sum((1, 2)) / mass for axis in (x, y)]
    dx, dy = x - mean[0][:, None, None], y - mean[1][:, None, None]
    return -(ink * dx * dy).sum((1, 2)) / (ink * dy**2).sum((1, 2))


def test_the_numbers_show_in_the_pictures():
    big = drawing.draw_writers(40, 1, intra=0.0)
    ink = 1 - big.image[..., 0] / 255
    assert np.corrcoef(_column(big, "slant"), _shear(big.image))[0, 1] > 0.5
    black = (ink > 0.5).sum((1, 2))
    assert np.corrcoef(_column(big, "pen"), black)[0, 1] > 0.5
    columns = (ink > 0.4).any(axis=1)
    wide = columns.shape[1] - columns.argmax(1) - columns[:, ::-1].argmax(1)
    size = _column(big, "aspect") + _column(big, "size")
    assert np.corrcoef(size, wide)[0, 1] > 0.5
    # White paper, dark ink, nothing cut off at the border.
    assert big.image.dtype == np.uint8
    assert np.all(big.image[:, 0].mean(axis=(1, 2)) > 240) and ink.max() > 0.9


def test_printed_letters_lift_the_pen():
    mean = {name: np.array([p.mean]) for name, p in drawing.PARAMETERS.items()}
    joined = mean | {"join_nd": np.array([1.0])}
    printed = mean | {"a_style": np.array([1.0]), "join_nd": np.array([0.0])}
    counts = [
        len(and_strokes.strokes(values, and_strokes.forms(values)[0]))
        for values in (joined, mean, printed)
    ]
    assert counts == [1, 2, 4]


def test_errors():
    with pytest.raises(ValueError, match="samples=0"):
        drawing.draw_writers(1, 0)
