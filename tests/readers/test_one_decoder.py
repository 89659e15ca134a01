"""Whoever reads images reads them by ``images``: 12 bits in 16, transparency, damage.

Pillow's own conversion cuts 12 bits off at 255, and shows what lies beneath clear
pixels.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.pipelines.chat_verification import default, pairs
from jaxkd.readers import edit_benchmarks, images, tiil
from jaxkd.readers.text_lmdb import TextLmdb


def encoded(array, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, format="PNG")
    return buffer.getvalue()


SIDE = edit_benchmarks.SIDE  # The one size that every reader here takes.
DEEP = np.resize(np.linspace(0, 4095, 48).astype(np.uint16), (SIDE, SIDE))
SHADES = np.repeat(np.round(DEEP * (255 / 4095))[..., None], 3, -1)
CLEAR = np.zeros((SIDE, SIDE, 4), np.uint8)
CLEAR[:3] = (10, 20, 30, 255)
ON_WHITE = np.where(np.arange(SIDE)[:, None, None] < 3, (10, 20, 30), 255)
ON_WHITE = np.broadcast_to(ON_WHITE, (SIDE, SIDE, 3))
DAMAGED = bytearray(encoded(DEEP))
DAMAGED[-20] ^= 1


def of_bytes(data, tmp_path):
    return images.decode_bytes(data, "a record")


def of_pie_bench(data, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    return edit_benchmarks._open(tmp_path / "a.png")


def of_parquet(data, tmp_path):
    return edit_benchmarks._decode({"bytes": data}, "row 1")


def of_chat_pairs(data, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "pairs.csv").write_text("sample1,sample2,label\na.png,a.png,1\n")
    config = default()
    config.table, config.images = str(tmp_path / "pairs.csv"), str(tmp_path)
    config.few_shot = 0
    (question,) = pairs.load(config).questions
    return question.load().known


def of_lmdb(data, tmp_path):
    lmdb = pytest.importorskip("lmdb")
    opened = lmdb.open(str(tmp_path), map_size=1 << 20)
    with opened, opened.begin(write=True) as transaction:
        transaction.put(b"image-000000001", data)
        transaction.put(b"label-000000001", b"a")
        transaction.put(b"num-samples", b"1")
    return TextLmdb(tmp_path)[0].image


@pytest.mark.parametrize(
    "read", [of_bytes, of_pie_bench, of_parquet, of_chat_pairs, of_lmdb]
)
def test_the_right_pixels_or_an_error(read, tmp_path):
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    np.testing.assert_array_equal(read(encoded(DEEP), places[0]), SHADES)
    np.testing.assert_array_equal(read(encoded(CLEAR, "RGBA"), places[1]), ON_WHITE)
    with pytest.raises(UserError, match=r"does not fit its checksum|it is cut short"):
        read(bytes(DAMAGED), places[2])


def test_masks_of_tiil(tmp_path):
    """Of 0 and 1, and of red: both were nothing where 127 divided them."""
    wanted = np.zeros((SIDE, SIDE), bool)
    wanted[1:3, 2:5] = True
    (tmp_path / "a.png").write_bytes(encoded(CLEAR, "RGBA"))
    entries = [{"image_id": 1, "caption": "a dog"}]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": entries}
    for name in ("consistent.json", "inconsistent.json"):
        (tmp_path / name).write_text(json.dumps(content))
    masks = tmp_path / "masks"
    masks.mkdir()
    red = np.where(wanted[..., None], (255, 0, 0), 0).astype(np.uint8)
    (masks / "a.png").write_bytes(encoded(red))
    np.testing.assert_array_equal(list(tiil.read(tmp_path, masks))[1].mask, wanted)
    (masks / "a.png").write_bytes(encoded(wanted.astype(np.uint8)))
    with pytest.warns(UserWarning, match="its values are 0 and 1"):
        found = list(tiil.read(tmp_path, masks))[1].mask
    np.testing.assert_array_equal(found, wanted)
    (masks / "a.png").write_bytes(bytes(DAMAGED))
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image"):
        list(tiil.read(tmp_path, masks))
