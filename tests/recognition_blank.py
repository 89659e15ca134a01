"""Recognition data without content, to build and trace configurations."""

import numpy as np

from jaxkd.datasets import cars196, cub, faces, identities, lfw, textures
from jaxkd.readers.identity_pairs import Pairs


def _blank(labels, size):
    images = np.broadcast_to(np.uint8(0), (len(labels), size, size, 3))
    return {"image": images, "label": labels.astype(np.int32)}


def _listed(classes, count):
    labels = np.repeat(np.arange(classes, dtype=np.int32), count)
    return [f"{i}.jpg" for i in range(len(labels))], labels


def replace(monkeypatch):
    """Replaces drawing and reading; options are still checked by the real code."""

    def draw_faces(size, each, spread, seed, split, first, count):
        return _blank(np.tile(np.arange(first, first + count), each), size)

    def people(folder):
        return {f"{i:04}": [f"{i}/{j}.jpg" for j in range(5)] for i in range(300)}

    def pairs_file(path):
        names = [(f"{i}", 1) for i in range(40)]
        same, fold = np.tile([True, False], 20), np.repeat(np.arange(10), 4)
        return lfw.Listed(names, [(n, 2) for n, _ in names], same, fold)

    def birds(top):
        paths, labels = _listed(200, 30)
        return paths, labels, np.arange(6000) % 2 == 0

    def cars(top):
        paths, labels = _listed(196, 30)
        return paths, labels, np.arange(5880) % 2 == 0, tuple(map(str, range(196)))

    monkeypatch.setattr(faces, "_draw", draw_faces)
    monkeypatch.setattr(
        faces, "_pairs", lambda *_: Pairs(*(np.arange(0) for _ in range(4)))
    )
    monkeypatch.setattr(
        textures,
        "_draw",
        lambda size, count, *_: _blank(np.arange(count) % 12, size),
    )
    monkeypatch.setattr(identities, "list_identities", people)
    monkeypatch.setattr(lfw, "list_identities", people)
    monkeypatch.setattr(lfw, "read_pairs", pairs_file)
    monkeypatch.setattr(lfw, "check_files", lambda *_: None)
    monkeypatch.setattr(cub, "_read", birds)
    monkeypatch.setattr(cub, "_names", lambda top: tuple(map(str, range(200))))
    monkeypatch.setattr(cars196, "_read", cars)
