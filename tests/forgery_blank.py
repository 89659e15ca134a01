"""Inpainted photographs without pictures and files, for tests of configurations."""

from pathlib import Path

import numpy as np

from jaxkd.datasets import diffusion_inpainter, inpainted, mask_images
from jaxkd.readers.masks.pairs import Pair


def _crops(pictures, kinds, size, seed, generate=None):
    count = len(kinds)
    rng = np.random.default_rng(seed)
    numbers = np.zeros(count, np.int32)
    return inpainted.Crops(
        rng.integers(0, 256, (count, size, size, 3), np.uint8),
        *(np.zeros((count, size, size), np.uint8),) * 2,
        *(numbers,) * 3,
    )


def _unfilled(image, hole, rng):
    return image


def _checked(split, reading, strict, endings):
    return [Pair(Path(split) / f"{i}.png", None) for i in range(1000)]


def replace(monkeypatch):
    """Replaces reading and inpainting; options are still checked by the real code."""
    picture = np.zeros((512, 512, 3), np.uint8)
    monkeypatch.setattr(inpainted, "photographs", lambda names: {"a": picture})
    monkeypatch.setattr(inpainted, "make", _crops)
    monkeypatch.setattr(diffusion_inpainter, "from_run", lambda folder, size: _unfilled)
    monkeypatch.setattr(mask_images, "_split", lambda top, *names: top / names[0])
    monkeypatch.setattr(mask_images, "_checked", _checked)
