import importlib.util
import io
import itertools
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.readers import images, opening
from jaxkd.readers.images import (
    center_crop,
    crop_box,
    decode,
    fit,
    random_resized_crop,
    resize,
)


def picture(height=20, width=30, seed=0):
    """A smooth random picture, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def save(path, array_or_image, **options):
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def test_fitting_as_a_network_was_trained():
    large, exact = picture(20, 30), picture(8, 8)
    cropped = center_crop(8)({"image": large})["image"]
    np.testing.assert_array_equal(fit(large, (8, 8, 3)), cropped)
    np.testing.assert_array_equal(fit(exact, (8, 8, 3)), exact)
    # Trained on photographs that were all cropped, so are those of the right size.
    cropped = center_crop(8)({"image": exact})["image"]
    np.testing.assert_array_equal(fit(exact, (8, 8, 3), "center_crop"), cropped)
    assert not np.array_equal(cropped, exact)
    np.testing.assert_array_equal(fit(large, (8, 12, 3)), resize(large, (8, 12)))
    grey = fit(exact, (8, 8, 1))[..., 0]
    luma = np.array(Image.fromarray(exact).convert("L"), int)
    assert np.max(np.abs(grey - luma)) <= 1
    with pytest.raises(UserError, match=r"1 channels.*trained on 3"):
        fit(exact[..., :1], (8, 8, 3))


def test_lossless_colour(tmp_path):
    path = save(tmp_path / "a.png", picture())
    np.testing.assert_array_equal(decode(path), picture())


def test_grey_and_palette(tmp_path):
    grey = picture()[..., 0]
    ours = decode(save(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(ours, np.stack([grey] * 3, -1))
    palette = Image.fromarray(picture()).quantize(16)
    ours = decode(save(tmp_path / "palette.png", palette))
    np.testing.assert_array_equal(ours, np.array(palette.convert("RGB")))


def test_sixteen_bit_grey(tmp_path):
    wide = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100
    ours = decode(save(tmp_path / "wide.png", wide))
    wanted = np.round(wide / 257)
    np.testing.assert_array_equal(ours, np.stack([wanted] * 3, -1))


def test_depth_is_that_of_the_file(tmp_path):
    """Of 12 bits in 16, and of 8 in 32, nothing becomes black."""
    ramp = np.linspace(0, 4095, 600).astype(np.uint16).reshape(20, 30)
    for name in ("twelve.png", "twelve.tif"):
        ours = decode(save(tmp_path / name, ramp))
        wanted = np.round(ramp * (255 / 4095))
        np.testing.assert_array_equal(ours, np.stack([wanted] * 3, -1))
    eight = (np.arange(600) % 256).astype(np.int32).reshape(20, 30)
    ours = decode(save(tmp_path / "eight.tif", eight))
    np.testing.assert_array_equal(ours, np.stack([eight] * 3, -1))
    with pytest.raises(UserError, match="signed and some are negative"):
        decode(save(tmp_path / "signed.tif", eight - 1))
    with pytest.raises(UserError, match="more than 16 bits"):
        decode(save(tmp_path / "deep.tif", eight * 1000))


def png(depth, kind, rows):
    """Writes a PNG file of rows of bytes, as Pillow itself cannot."""

    def part(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    width = len(rows[0]) * 8 // (depth * {0: 1, 2: 3}[kind])
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(part(*each) for each in parts)


def test_colours_of_twelve_bits_are_refused(tmp_path):
    values = np.arange(12)
    path = tmp_path / "a.png"
    path.write_bytes(png(16, 2, [(values * 5000).astype(">u2").tobytes()] * 4))
    wanted = (np.arange(12) * 5000 >> 8).reshape(4, 3)
    np.testing.assert_array_equal(decode(path)[0], wanted)
    path.write_bytes(png(16, 2, [(values * 300).astype(">u2").tobytes()] * 4))
    with pytest.raises(UserError, match="upper ones are empty; convert it to 8 bits"):
        decode(path)


def test_channels_are_kept_by_option(tmp_path):
    layers = np.concatenate([picture(), picture(seed=1)[..., :1]], -1)
    path = save(tmp_path / "a.png", layers)
    np.testing.assert_array_equal(decode(path, channels=4), layers)
    grey = save(tmp_path / "grey.png", layers[..., 0])
    np.testing.assert_array_equal(decode(grey, channels=1), layers[..., :1])
    pair = layers[..., 2:]
    two = save(tmp_path / "two.png", Image.fromarray(pair, "LA"))
    np.testing.assert_array_equal(decode(two, channels=2), pair)
    with pytest.raises(UserError, match=r"channels is 0, expected 1 \(grey\), 3"):
        decode(path, channels=0)
    with pytest.raises(UserError, match=r"a.png cannot be read as a TIFF image"):
        decode(path, channels=5)


def tiff(path, pixels, **options):
    """Writes a TIFF file of any number of channels, as Pillow cannot."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_layers_of_tiff_files_are_kept(tmp_path, channels):
    rng = np.random.default_rng(channels)
    layers = rng.integers(0, 256, (6, 9, channels), np.uint8)
    grey = {"photometric": "minisblack", "metadata": None}
    path = tiff(tmp_path / "a.tif", layers, planarconfig="contig", **grey)
    np.testing.assert_array_equal(decode(path, channels), layers)
    apart = layers.transpose(2, 0, 1)
    path = tiff(tmp_path / "b.tif", apart, planarconfig="separate", **grey)
    np.testing.assert_array_equal(decode(path, channels), layers)
    path = tiff(tmp_path / "c.tif", apart, **grey)  # a page each
    np.testing.assert_array_equal(decode(path, channels), layers)
    path = tiff(tmp_path / "d.tif", apart.astype(np.uint16) * 257, **grey)
    np.testing.assert_array_equal(decode(path, channels), layers)
    with pytest.raises(UserError, match=rf"has {channels} channels, expected 6"):
        decode(path, 6)


def test_a_fourth_band_is_no_transparency(tmp_path):
    """Near infrared beside RGB: Pillow reads its file as RGB alone."""
    layers = np.concatenate([picture(), picture(seed=1)[..., :1]], -1)
    infrared = {"photometric": "rgb", "extrasamples": ["unspecified"]}
    path = tiff(tmp_path / "a.tif", layers, **infrared)
    with Image.open(path) as image:
        assert image.mode == "RGB"
    np.testing.assert_array_equal(decode(path, channels=4), layers)
    path = tiff(tmp_path / "b.tif", layers, photometric="rgb", extrasamples=[2])
    np.testing.assert_array_equal(decode(path, channels=4), layers)
    np.testing.assert_array_equal(decode(save(tmp_path / "c.tif", layers), 4), layers)
    path = save(tmp_path / "d.tif", picture())
    opaque = np.full((20, 30, 1), 255)
    wanted = np.concatenate([picture(), opaque], -1)
    np.testing.assert_array_equal(decode(path, channels=4), wanted)


def test_big_endian_and_large_tiff_files(tmp_path):
    """Pillow opens no BigTIFF of that order."""
    layers = np.random.default_rng(0).integers(0, 256, (6, 9, 4), np.uint8)
    grey = {"photometric": "minisblack", "planarconfig": "contig"}
    for number, (order, large) in enumerate(itertools.product("<>", (False, True))):
        path = tmp_path / f"{number}.tif"
        tiff(path, layers, byteorder=order, bigtiff=large, **grey)
        np.testing.assert_array_equal(decode(path, 4), layers)


def test_compressed_layers(tmp_path):
    layers = np.concatenate([picture(), picture(seed=1)[..., :1]], -1)
    path = save(tmp_path / "a.tif", layers, compression="tiff_lzw")
    kind, other = (struct.pack("<HHIH", 338, 3, 1, value) for value in (2, 0))
    assert path.read_bytes().count(kind) == 1  # transparency becomes a plain layer
    path.write_bytes(path.read_bytes().replace(kind, other))
    if importlib.util.find_spec("imagecodecs"):
        np.testing.assert_array_equal(decode(path, 4), layers)
        return
    with pytest.raises(UserError, match=r"a\.tif, compressed: imagecodecs is needed"):
        decode(path, 4)


def test_layers_that_cannot_be_read_are_named(tmp_path):
    layers = np.zeros((6, 9, 5), np.uint8)
    grey = {"photometric": "minisblack", "planarconfig": "contig"}
    floats = tiff(tmp_path / "a.tif", layers.astype(np.float32), **grey)
    with pytest.raises(UserError, match="its pixels are float32, whose range"):
        decode(floats, 5)
    turned = tiff(tmp_path / "b.tif", layers, extratags=[(274, 3, 1, 6, True)], **grey)
    with pytest.raises(UserError, match="its orientation tag is 6, expected 1"):
        decode(turned, 5)
    whole = tiff(tmp_path / "c.tif", layers, **grey)
    with pytest.raises(UserError, match=r"declares 54 pixels, expected at most 10"):
        decode(whole, 5, max_pixels=10)
    for size in (0, 3, 40, 300):
        cut = tmp_path / "d.tif"
        cut.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(UserError, match=r"d\.tif cannot be read as"):
            decode(cut, 5)


@pytest.mark.parametrize("suffix", ["pgm", "ppm", "jp2", "tif"])
def test_other_formats_without_loss(tmp_path, suffix):
    image = Image.fromarray(picture())
    image = image.convert("L") if suffix == "pgm" else image
    path = save(tmp_path / f"a.{suffix}", image)
    np.testing.assert_array_equal(decode(path), np.array(image.convert("RGB")))
    assert path.suffix in images.SUFFIXES


def test_large_photographs_by_option(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="max_pixels"):
        decode(path)
    np.testing.assert_array_equal(decode(path, max_pixels=600), picture())
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_flipped_bit_of_a_png_file_is_named(tmp_path):
    content = save(tmp_path / "a.png", picture()).read_bytes()
    path = tmp_path / "b.png"
    for place in range(20, len(content), 37):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as an image"):
            decode(path)


def test_transparent_pixels_are_white(tmp_path):
    alpha = np.full((20, 30, 1), 255, np.uint8)
    alpha[:5] = 0
    alpha[5:10] = 128
    path = save(tmp_path / "a.png", np.concatenate([picture(), alpha], -1))
    part = alpha / 255
    wanted = picture() * part + 255 * (1 - part)
    np.testing.assert_allclose(decode(path), wanted, atol=1)


def test_cmyk(tmp_path):
    image = Image.fromarray(picture()).convert("CMYK")
    path = save(tmp_path / "a.jpg", image, quality=100, subsampling=0)
    assert np.abs(decode(path).astype(int) - picture()).mean() < 4


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (6, lambda x: np.rot90(x, -1)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_exif_orientation(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", picture(), exif=exif)
    np.testing.assert_array_equal(decode(path), turn(picture()))


def test_float_pixels_are_refused(tmp_path):
    path = save(tmp_path / "a.tiff", np.ones((4, 4), np.float32))
    with pytest.raises(UserError, match=r"a.tiff cannot be read .* floats"):
        decode(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.7, 0.9])
def test_a_file_cut_short_is_named(tmp_path, suffix, keep):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(buffer.getvalue()[: int(keep * len(buffer.getvalue()))])
    with pytest.raises(UserError, match=re.escape(f"{path} cannot be read")):
        decode(path)


def test_text_and_missing_files_are_named(tmp_path):
    path = tmp_path / "a.jpg"
    with pytest.raises(UserError, match=r"a.jpg cannot be read .*no such file"):
        decode(path)
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"a.jpg cannot be read .*16 bytes"):
        decode(path)


def test_boxes_follow_the_law_of_area_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [crop_box(200, 200, rng, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
    )
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0
    assert right.max() <= 200 and bottom.max() <= 200
    width, height = right - left, bottom - top
    area, ratio = width * height / 200**2, width / height
    assert area.min() > 0.079 and ratio.min() > 0.74 and ratio.max() < 1.35
    # Large areas are rarer than uniform only where an elongated box does not fit.
    small = area[area < 0.5]
    assert abs(np.mean(small < 0.29) - 0.5) < 0.04
    assert abs(np.log(ratio).mean()) < 0.01
    assert abs((left / np.maximum(200 - width, 1)).mean() - 0.5) < 0.03


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (1, 1), (3, 500)])
def test_boxes_of_extreme_pictures_fit(height, width):
    rng = np.random.default_rng(0)
    for _ in range(50):
        box = crop_box(height, width, rng, (0.99, 1.0), (3 / 4, 4 / 3))
        assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height


def test_random_resized_crop_is_the_resized_box():
    example = {"image": picture(60, 80), "label": np.int32(3)}
    ours = random_resized_crop(16)(example, np.random.default_rng(5))
    box = crop_box(60, 80, np.random.default_rng(5), (0.08, 1.0), (3 / 4, 4 / 3))
    cut = Image.fromarray(picture(60, 80)).crop(box)
    wanted = np.array(cut.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(ours["image"], wanted)
    assert ours["image"].shape == (16, 16, 3) and ours["image"].dtype == np.uint8
    assert ours["label"] == 3
    assert example["image"].shape == (60, 80, 3)


def test_center_crop():
    # 224 / 7 = 32: the shorter side, 75 pixels, becomes 37 and 32 are kept.
    image = picture(75, 110)
    ours = center_crop(32)({"image": image})["image"]
    assert ours.shape == (32, 32, 3)
    scaled = Image.fromarray(image).resize((54, 37), Image.Resampling.BILINEAR)
    wanted = np.array(scaled)[2:34, 11:43]
    np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (255, 256), (37, 37)])
def test_center_crop_of_any_shape(shape):
    ours = center_crop(32)({"image": picture(*shape)})["image"]
    assert ours.shape == (32, 32, 3)


def test_layers_are_resized_each_by_itself():
    """Transparency would hide the colours beneath it, were it taken for that."""
    layers = np.concatenate([picture(), np.zeros((20, 30, 1), np.uint8)], -1)
    resized = resize(layers, (10, 15))
    np.testing.assert_array_equal(resized[..., :3], resize(picture(), (10, 15)))
    assert not resized[..., 3].any()
    assert resize(layers[..., :2], (10, 15)).shape == (10, 15, 2)


def test_resize_keeps_one_channel():
    image = picture(20, 30)[..., :1]
    same = resize(image, (20, 30))
    np.testing.assert_array_equal(same, image)
    half = resize(image, (10, 15))
    blocks = image.reshape(10, 2, 15, 2, 1).mean((1, 3))
    assert np.abs(half - blocks).mean() < 4


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "it is empty (0 bytes)"), (b"hello", "of no known format (5 bytes)")],
)
def test_files_that_are_no_images(tmp_path, content, said):
    (tmp_path / "a.webp").write_bytes(content)
    with pytest.raises(UserError) as error:
        decode(tmp_path / "a.webp")
    assert said in str(error.value)


def test_formats_that_start_programs_are_not_tried(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path, "eps")
    with pytest.raises(UserError, match="of no known format"):
        decode(path)


def test_few_bytes_hold_few_pixels(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", picture())
    size = path.stat().st_size
    monkeypatch.setattr(opening, "BLANK_PIXELS", 100)
    np.testing.assert_array_equal(decode(path), picture())
    monkeypatch.setattr(opening, "PIXELS_PER_BYTE", 0.1)
    with pytest.raises(UserError, match=rf"pixels in {size:,} bytes, .* max_pixels"):
        decode(path)
    np.testing.assert_array_equal(decode(path, max_pixels=600), picture())


def grey_tiff(path, pixels, bits, *, sample_format=1, photometric=1):
    """Writes grey TIFF by hand, as Pillow cannot; 12 bits are packed."""
    flat = np.asarray(pixels)
    data = flat.astype("u1" if bits == 8 else "<u2").tobytes()
    if bits == 12:
        digits = "".join(f"{value:03x}" for value in flat.ravel().tolist())
        data = bytes.fromhex(digits)
    height, width = flat.shape
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    entries += [(273, 8), (277, 1), (278, height), (279, len(data))]
    entries += [(339, sample_format)]
    table = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    path.write_bytes(head + struct.pack("<H", len(entries)) + table + bytes(4))
    return path


def test_tags_of_tiff_files_are_respected(tmp_path):
    path = tmp_path / "a.tif"
    # White is zero: of 16 bits, which Pillow does not turn around, as of 8.
    for bits in (8, 16):
        top = (1 << bits) - 1
        found = decode(grey_tiff(path, [[0, top], [top, 0]], bits, photometric=0))
        assert found[..., 0].tolist() == [[255, 0], [0, 255]]
    # A dark picture of 12 bits: 200 of 4,095, and not of 255.
    assert decode(grey_tiff(path, [[0, 200], [100, 0]], 12)).max() == 12
    with pytest.raises(UserError, match="signed numbers of 8 bits"):
        decode(grey_tiff(path, [[0, 200], [100, 0]], 8, sample_format=2))
