"""Tiles: joined, they are the whole, whatever the size."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.models.srcnn import PatchAutoencoder
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


def test_tiles_that_the_network_does_not_read():
    network = PatchAutoencoder(scale=2, widths=(2,))

    def run(batch):
        return network.init_with_output(jax.random.key(0), batch)[0][0]

    super_resolution._check_network(run, 8, 1)
    with pytest.raises(UserError, match=r"tiles of 7 pixels: .*--option=tile=SIDE"):
        super_resolution._check_network(run, 7, 1)


def test_images_of_any_kind_for_a_network_of_grey_ones(tmp_path, monkeypatch):
    """Of one pixel, transparent, CMYK, damaged; two of one name."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (3, 2), (0, 255, 0)).save(folder / "a.bmp")
    Image.new("RGBA", (1, 1), (0, 0, 0, 0)).save(folder / "a.png")
    Image.new("CMYK", (8, 9), (0, 0, 0, 255)).save(folder / "b.tif")
    (folder / "c.png").write_bytes(b"none")
    copy = SimpleNamespace(scale=1, apply=lambda _, batch, train: (batch, {}))
    restored = SimpleNamespace(
        network=copy,
        variables={},
        name="x",
        info=SimpleNamespace(image_shape=(4, 4, 1)),
    )
    monkeypatch.setattr(super_resolution, "restore", lambda *_: restored)
    shown = super_resolution.predict(tmp_path, [folder], output, tile=4, overlap=1)
    assert "3 images enlarged" in shown and "1 could not be read" in shown
    found = {path.name: np.array(Image.open(path)) for path in output.glob("*.png")}
    # BT.601's luma of green; transparent pixels are white.
    for name, shape, level in (
        ("a.png", (2, 3), 150),
        ("a-2.png", (1, 1), 255),
        ("b.png", (9, 8), 0),
    ):
        np.testing.assert_array_equal(found.pop(name), np.full(shape, level))
    assert not found
    assert "c.png,unreadable," in (output / "files.csv").read_text()


def test_the_scale_of_a_diffusion_is_the_views_or_the_datas():
    info = SimpleNamespace(image_shape=(32, 32, 3))
    made = {"view": {"base": {"name": "low", "side": 8}}, "data": {}}
    read = {"view": {"base": {"name": "signed_dihedral"}}, "data": {"scale": 3}}
    drawn = {"view": {"base": {"name": "real_esrgan", "scale": 2}}, "data": {}}
    for config, expected in ((made, 4), (read, 3), (drawn, 2)):
        restored = SimpleNamespace(config=ConfigDict(config), info=info)
        assert super_resolution._diffusion_scale(restored) == expected
