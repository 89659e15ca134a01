import os
from pathlib import Path

import pytest

from jaxkd.core.errors import UserError
from jaxkd.readers import listing


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "top"
    for name in ("b/2.png", "b/10.png", "a.png", "b/.ipynb_checkpoints/2.png"):
        touch(top / name)
    touch(top / "b/._2.png")
    touch(tmp_path / "elsewhere/c.png")
    (top / "link").symlink_to(tmp_path / "elsewhere")
    (top / "b/loop").symlink_to(top)
    (top / "gone.png").symlink_to(tmp_path / "nowhere")
    return top


def test_links_are_followed_once_and_hidden_files_left_out(tree):
    found = [str(path.relative_to(tree)) for path in listing.below(tree)]
    assert found == ["a.png", "b/10.png", "b/2.png", "gone.png", "link/c.png"]


def test_the_output_is_not_read_again(tree, tmp_path):
    touch(tree / "out/masks/a.png")
    (tmp_path / "other").symlink_to(tree / "out")
    found = listing.below(tree, exclude=[tmp_path / "other"])
    assert len(found) == 5


def test_names_that_are_not_utf_8(tree):
    assert listing.entries(tree) == ["a.png", "b", "gone.png", "link"]
    name = os.fsdecode(b"caf\xe9.png")
    touch(tree / name)
    with pytest.raises(UserError, match=r"caf\\xe9\.png has a name that is not UTF-8"):
        listing.entries(tree)
    assert tree / name in listing.below(tree)
    assert listing.shown(Path("é.png")) == "é.png"


def test_folders_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="cannot be opened: No such file"):
        listing.below(tmp_path / "nothing")
