import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxkd.drawing import glyphs
from jaxkd.drawing.glyphs import CLASSES, FONTS, LAWS, draw_images, glyph_bank, pack


def font_path(name):
    import matplotlib

    return f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf"


def test_classes_are_one_hundred_different_characters():
    assert len(CLASSES) == len(set(CLASSES)) == 100
    assert all(len(text) == 1 for text in CLASSES)
    assert len(FONTS) == len(set(FONTS)) == 16


@pytest.mark.parametrize("name", FONTS)
def test_every_class_exists_in_every_font(name):
    from fontTools.ttLib import TTFont

    characters = TTFont(font_path(name)).getBestCmap()
    assert [text for text in CLASSES if ord(text) not in characters] == []


@pytest.mark.parametrize("size", LAWS)
def test_cells_are_filled_different_and_not_cut(size):
    bank = glyph_bank(size)
    cell = 2 * size + 4
    assert bank.shape == (100, 16, cell, cell) and bank.dtype == np.uint8
    border = np.ones((cell, cell), bool)
    border[1:-1, 1:-1] = False
    assert bank[..., border].max() == 0
    assert (bank.max((2, 3)) > 127).all()
    # Within a font no two classes look the same, as missing characters would.
    for font in range(len(FONTS)):
        assert len({image.tobytes() for image in bank[:, font]}) == 100
    # The ink is centred to within half a pixel of the grid.
    rows, columns = bank.max(3) > 0, bank.max(2) > 0
    for ink in (rows, columns):
        first = ink.argmax(-1)
        last = cell - 1 - ink[..., ::-1].argmax(-1)
        assert np.abs((first + last) / 2 - (cell - 1) / 2).max() <= 0.5


def test_packed_neighbours():
    bank = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 5), np.uint8)
    packed = pack(bank)
    np.testing.assert_array_equal(packed & 255, bank)
    right = packed[..., :-1] >> 8 & 255
    np.testing.assert_array_equal(right, bank[..., 1:])
    lower = packed[..., :-1, :] >> 16 & 255
    np.testing.assert_array_equal(lower, bank[..., 1:, :])
    diagonal = packed[..., :-1, :-1] >> 24
    np.testing.assert_array_equal(diagonal, bank[..., 1:, 1:])
    assert (packed[..., -1] >> 8 & 255).max() == 0


@pytest.mark.parametrize("size", LAWS)
def test_mask_is_an_affine_warp_of_the_cell(size):
    # Uniform draws are taken in the order font, rotation, scale, aspect, shear.
    law, bank = LAWS[size], glyph_bank(size)
    font, rotation, scale, aspect, shear = draws = [0.4, 0.9, 0.2, 0.8, 0.1]
    centre, label = (1.7, -2.4), 37
    ours = glyphs._mask(
        jnp.asarray(pack(bank)), label, centre, iter(map(jnp.float32, draws)), law
    )

    def between(uniform, low, high):
        return low + uniform * (high - low)

    angle = np.deg2rad(between(rotation, *law.rotation))
    stretch = np.exp(between(aspect, *law.aspect) / 2)
    factor = between(scale, *law.scale)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1, between(shear, *law.shear)], [0, 1]])
    forward = turn @ slant @ np.diag([factor * stretch, factor / stretch])
    middle = size - 0.5
    grid = np.arange(2 * size) - middle
    x, y = np.meshgrid(grid - 2 * centre[0], grid - 2 * centre[1])
    across, down = np.einsum("ij,jhw->ihw", np.linalg.inv(forward), np.stack([x, y]))
    cell = bank[label, int(font * 16)].astype(np.float64) / 255
    middle = (cell.shape[0] - 1) / 2
    fine = ndimage.map_coordinates(cell, [down + middle, across + middle], order=1)
    wanted = fine.reshape(size, 2, size, 2).mean((1, 3))
    assert wanted.max() > 0.5
    np.testing.assert_allclose(ours, wanted, atol=2e-4)


def test_paint_replaces_the_covered_part():
    law = LAWS[16]
    background = np.array([0.2, 0.9, 0.5], np.float32)
    image = np.random.default_rng(0).random((4, 4, 3), np.float32)
    mask = np.array([[0, 1, 0.25, 0]] * 4, np.float32)
    normals = np.array([1.0, 0.0, -1.0], np.float32)
    ours = glyphs._paint(
        image, mask, background, -1.0, iter([jnp.float32(0.5)]), normals, law
    )
    colour = np.clip(background - (0.4 + 0.95) / 2 + 0.15 * normals, 0, 1)
    wanted = image * (1 - mask[..., None]) + colour * mask[..., None]
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.5])
def test_blur_is_gaussian(sigma):
    image = np.random.default_rng(0).random((9, 9, 3))
    ours = glyphs._blur(jnp.asarray(image, jnp.float32), sigma)
    wanted = ndimage.gaussian_filter(
        image, max(sigma, 1e-3), axes=(0, 1), mode="nearest", radius=2
    )
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_intruder_keeps_its_distance():
    scalars = np.random.default_rng(0).random((200, 2)).astype(np.float32)
    centres = np.array([glyphs._intrusion(iter(row), LAWS[16]) for row in scalars])
    distance = np.hypot(*centres.T)
    assert distance.min() >= 7.5 - 1e-5 and distance.max() <= 10 + 1e-5
    assert np.abs(centres.mean(0)).max() < 1.5  # all directions


def test_image_depends_on_key_label_and_position_only():
    key = jax.random.key(0)
    labels = np.arange(30) % 100
    images = draw_images(key, labels, 16)
    assert images.shape == (30, 16, 16, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(draw_images(key, labels[:7], 16), images[:7])
    changed = labels.copy()
    changed[3] = 50
    differs = (draw_images(key, changed, 16) != images).any((1, 2, 3))
    np.testing.assert_array_equal(np.flatnonzero(differs), [3])
    assert (draw_images(jax.random.key(1), labels, 16) != images).any((1, 2, 3)).all()


def test_chunks_continue_the_sequence(monkeypatch):
    key, labels = jax.random.key(0), np.arange(13)
    whole = draw_images(key, labels, 16)
    monkeypatch.setattr(glyphs, "CHUNK", 5)
    np.testing.assert_array_equal(draw_images(key, labels, 16), whole)


def test_same_images_under_other_defaults():
    labels = np.arange(20)
    images = draw_images(jax.random.key(0), labels, 16)
    with jax.enable_x64(True):
        again = draw_images(jax.random.key(0), labels, 16)
    np.testing.assert_array_equal(again, images)
