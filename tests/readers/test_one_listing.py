"""Whoever lists files for training lists them by ``listing``: a tree for each."""

import os
from pathlib import Path

import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import identities, image_pairs
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.readers import clips, edit_benchmarks, face_forgery, handwriting
from jaxkd.readers.clips import lists as clip_lists


def faces(top):
    graph = LabelGraph.ffsc()
    codes = {"m": "110000100001"}
    return [row.path for row in face_forgery.read_folder(top, graph, codes)]


def people(top):
    found = identities.list_identities(top)
    return [Path(path) for files in found.values() for path in files]


def pairs(top):
    return image_pairs._list(top, 1, 1, False).paths


def words(top):
    return [path for _, path in handwriting._list(top)]


def films(top):
    return [row.video for row in clip_lists.read(top)]


def tables(monkeypatch):
    """Parquet files, by the name that their rows would have."""
    monkeypatch.setattr(edit_benchmarks, "_rows", lambda file: [file])
    monkeypatch.setattr(edit_benchmarks, "_example", lambda file, name: file)
    return lambda top: list(edit_benchmarks.read_pie_bench_pp(top))


# Reader -> where its files lie, how they end, whether folders nest.
READERS = {
    "faces": (faces, "m", ".png", True),
    "people": (people, "m", ".png", False),
    "pairs": (pairs, "m", ".png", True),
    "words": (words, "m", ".png", False),
    "films": (films, "fake/m", ".npz", True),
    "clips": (lambda top: clips.find([top]), "m", ".npz", True),
    "tables": (None, "m", ".parquet", True),
}


@pytest.fixture(params=READERS)
def tree(request, tmp_path, monkeypatch):
    """A reader with a folder: two files, a link to a third, and what is left out."""
    read, place, ending, nests = READERS[request.param]
    top = tmp_path / "top" / place
    for name in ("b", "a", "._a", ".ipynb_checkpoints/a", ".hidden/a"):
        path = top / f"{name}{ending.upper() if name == 'b' else ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"c{ending}").touch()
    if nests:
        (top / "link").symlink_to(elsewhere)
        (top / "link" / "loop").symlink_to(top)
    else:
        (top.parent / "n").symlink_to(elsewhere)
    return read or tables(monkeypatch), tmp_path / "top", top, ending


def test_links_are_followed_and_hidden_files_left_out(tree):
    read, top, folder, ending = tree
    found = {path.name: path for path in read(top)}
    assert sorted(found) == [f"a{ending}", f"b{ending.upper()}", f"c{ending}"]
    assert len(read(top)) == 3
    assert found[f"a{ending}"] == folder / f"a{ending}"


def test_names_that_are_not_utf_8_are_refused(tree, request):
    read, top, folder, ending = tree
    (folder / os.fsdecode(b"caf\xe9" + os.fsencode(ending))).touch()
    if "clips" in request.node.callspec.params.values():  # for prediction: escaped
        assert len(read(top)) == 4
        return
    with pytest.raises(UserError, match=r"caf\\xe9.* has a name that is not UTF-8"):
        read(top)
