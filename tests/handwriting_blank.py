"""Handwriting without content, to build and trace configurations."""

import numpy as np

from jaxkd.datasets import handwriting
from jaxkd.readers.handwriting import Words


def _blank(writers, samples, size, first=0):
    count = writers * samples
    # Pictures that differ: the same one on both sides of a split is refused.
    image = np.zeros((count, size, size, 1), np.uint8)
    image[:, 0, :3, 0] = np.stack(np.unravel_index(np.arange(count), (256,) * 3), 1)
    return Words(
        image,
        np.repeat(np.arange(writers, dtype=np.int32), samples),
        tuple(f"writer {first + i}" for i in range(writers)),
        parameters=np.zeros((count, 24), np.float32),
    )


def replace(monkeypatch):
    """Replaces drawing and reading; options are still checked by the real code."""

    def draw(size, samples, intra, inter, seed, cache, first, count):
        return _blank(count, samples, size, first)

    monkeypatch.setattr(handwriting, "_draw", draw)
    monkeypatch.setattr(
        handwriting, "_read", lambda root, size: (_blank(40, 10, size), None)
    )
