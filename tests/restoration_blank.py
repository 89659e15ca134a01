"""Text, boxes and photographs without content, for tests of configurations."""

import numpy as np

from jaxkd.datasets import boxes, detection_scenes, image_pairs, text_lines, words


class Unread:
    """Lines of which the number and the first are known."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        blank = np.zeros((2, 2, 3), np.uint8)
        return text_lines.Line(blank, blank, "a")

    folder = "blank"


def _scenes(side, most, classes, count, *_):
    del classes
    return {
        "image": np.broadcast_to(np.uint8(0), (count, side, side, 3)),
        "boxes": np.broadcast_to(np.float32(0), (count, most, 4)),
        "classes": np.broadcast_to(np.int32(-1), (count, most)),
    }


def _words(height, width, least, most, count, *_):
    return {
        "image": np.broadcast_to(np.uint8(0), (count, height, width, 3)),
        "tokens": np.broadcast_to(np.int32(0), (count, most + 1)),
        "length": np.broadcast_to(np.int32(1), (count,)),
    }


def replace(monkeypatch):
    """Replaces drawing and reading; options are still checked by the real code."""
    monkeypatch.setattr(detection_scenes, "_draw", _scenes)
    monkeypatch.setattr(words, "_draw", _words)
    monkeypatch.setattr(text_lines, "_open", lambda folder: Unread(500))
    monkeypatch.setattr(text_lines, "_is_folder", lambda folder: True)
    monkeypatch.setattr(
        image_pairs, "_is_folder", lambda folder: folder.name in ("train", "test")
    )
    monkeypatch.setattr(image_pairs, "_list", lambda *_: Unread(800))
    names = [f"{i:02}" for i in range(80)]
    monkeypatch.setattr(boxes, "_source", lambda *_, **__: (Unread(500), names))
