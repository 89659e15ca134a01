"""Real and forged faces without drawing and files, for tests of configurations."""

from pathlib import Path

import numpy as np

from jaxkd.datasets import face_forgery, forged_faces
from jaxkd.drawing.forged_faces import Faces
from jaxkd.readers.face_forgery import FaceRow


def _drawn(key, plan, size):
    count = len(plan.attribute)
    shape = (count, size, size)
    return Faces(
        np.broadcast_to(np.uint8(0), (*shape, 3)),
        np.zeros((count, 12), np.int8),
        np.broadcast_to(np.uint8(0), (*shape, 6)),
    )


def _listed(path, graph, methods, **options):
    code = np.zeros(len(graph.nodes), np.int8)
    return [FaceRow(Path(path) / f"{i}.png", code, "real", str(i)) for i in range(100)]


def replace(monkeypatch):
    """Replaces reading and drawing; options are still checked by the real code."""
    monkeypatch.setattr(forged_faces, "draw_faces", _drawn)
    monkeypatch.setattr(face_forgery, "_split", lambda root, split: Path(root) / split)
    monkeypatch.setattr(face_forgery, "read", _listed)
    monkeypatch.setattr(face_forgery, "_check_files", lambda rows, path: None)
