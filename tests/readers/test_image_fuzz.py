"""Damaged images and masks: our errors alone, and no other mask without a note."""

import collections
import io
import os
import random
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.readers import images
from jaxkd.readers.masks import files
from tests.readers import fuzzing

# More by hand: FUZZ=2000 pytest -m slow tests/readers -k fuzz
COUNT = int(os.environ.get("FUZZ", "200"))


def encoded(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.slow
def test_fuzz_masks(tmp_path):
    """PNG files, whose checksums are checked; formats without any are not sure."""
    mask = np.zeros((24, 20), np.uint8)
    mask[4:12, 3:15] = 255
    content, path = encoded(mask, "png"), tmp_path / "mask.png"
    rng, ends = random.Random(0), collections.Counter()
    for _ in range(COUNT):
        path.write_bytes(fuzzing.mutate(content, rng))
        notes = []
        try:
            found = files.read_mask(path, notes.append)
        except UserError:
            ends["refused"] += 1
            continue
        right = np.array_equal(found, mask)
        assert right or notes, "another mask without a word"
        ends["right" if right else "noted"] += 1
    print(f"masks: {dict(ends)}")
    assert ends["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp", "gif", "webp", "ppm"])
def test_fuzz_images(tmp_path, kind):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (12, 10, 3), np.uint8)
    content, path = encoded(picture, kind), tmp_path / f"a.{kind}"
    path.write_bytes(content)
    right, draws = images.decode(path), random.Random(0)
    ends = collections.Counter()
    for _ in range(COUNT):
        path.write_bytes(fuzzing.mutate(content, draws))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about odd tags
                found = images.decode(path)
        except UserError:
            ends["refused"] += 1
            continue
        ends["right" if np.array_equal(found, right) else "other"] += 1
    print(f"{kind}: {dict(ends)}")
    assert ends["refused"] and (kind != "png" or not ends["other"])


@pytest.mark.slow
def test_fuzz_layers(tmp_path):
    """TIFF files of five layers; they have no checksum, so that any may be right."""
    tifffile = pytest.importorskip("tifffile")
    rng, path = np.random.default_rng(0), tmp_path / "a.tif"
    layers = rng.integers(0, 256, (12, 10, 5), np.uint8)
    tifffile.imwrite(path, layers, photometric="minisblack", planarconfig="contig")
    content, draws = path.read_bytes(), random.Random(0)
    ends = collections.Counter()
    for _ in range(COUNT):
        path.write_bytes(fuzzing.mutate(content, draws, 0, len(content) - layers.size))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about odd tags
                found = images.decode(path, 5)
        except UserError:
            ends["refused"] += 1
            continue
        assert found.shape[-1] == 5 and found.dtype == np.uint8
        ends["right" if np.array_equal(found, layers) else "other"] += 1
    print(f"layers: {dict(ends)}")
    assert ends["refused"] and ends["right"]
