"""Whole photographs that are filled in here and there."""

import numpy as np
import pytest
from PIL import Image

from jaxkd.datasets import forged_photographs, inpainted
from jaxkd.readers.masks import pairs

pytest.importorskip("cv2")
pytest.importorskip("skimage")

SIZE = 32


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("photographs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inpainted, "TEST", ("skimage/chelsea.png",))
        # The fast ones of the four.
        count = forged_photographs.write(top, SIZE, ("telea", "navier_stokes"))
    assert count == 1
    return top


def test_only_what_the_masks_mark_is_changed(folder):
    from skimage import data

    original = data.chelsea()
    forged = pixels(folder / "images/chelsea.png")
    mask = pixels(folder / "labels/chelsea.png")
    np.testing.assert_array_equal(pixels(folder / "authentic/chelsea.png"), original)
    np.testing.assert_array_equal(forged[mask == 0], original[mask == 0])
    assert (forged[mask > 0] != original[mask > 0]).any(-1).mean() > 0.5
    smoothed = pixels(folder / "authentic/chelsea_smoothed.png")
    changed = (smoothed != original).any(-1).mean()
    assert 0.001 < changed < 0.1


def test_windows_are_as_many_as_are_said(folder):
    mask = pixels(folder / "labels/chelsea.png")
    rows, columns = (side // SIZE for side in mask.shape)
    tiles = mask[: rows * SIZE, : columns * SIZE].reshape(rows, SIZE, columns, SIZE)
    parts = (tiles > 0).mean((1, 3))
    assert (parts > 0).sum() == rows * columns // 9
    assert parts[parts > 0].min() >= 0.04 and parts.max() <= 0.30
    assert not mask[rows * SIZE :].any() and not mask[:, columns * SIZE :].any()


def test_the_folder_is_one_that_is_read(folder):
    found = {pair.image.name: pair.mask for pair in pairs.find(folder)}
    assert found["chelsea.png"] is None or found["chelsea_smoothed.png"] is None
    assert len(pairs.find(folder)) == 3
    assert sum(pair.mask is not None for pair in pairs.find(folder)) == 1


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(forged_photographs, "write", lambda *a: len(a))
    assert forged_photographs.main([str(tmp_path), "--size=40", "--seed=2"]) == 0
    assert capsys.readouterr().out == f"5 photographs -> {tmp_path}\n"
    assert forged_photographs.main([str(tmp_path), "--inpainter=nowhere"]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, capsys):
    top = tmp_path / "top"
    for given in ("--size=301", "--size=0", "--seed=-1", "--methods=generative"):
        assert forged_photographs.main([str(top), given]) == 2
        assert not top.exists(), given
    assert "expected 16 to 300 pixels" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert forged_photographs.main([str(tmp_path / "file")]) == 2
    assert "the photographs" in capsys.readouterr().err


def test_files_that_are_there_stay(tmp_path, capsys):
    own = tmp_path / "images" / "chelsea.png"
    own.parent.mkdir()
    own.write_text("mine")
    assert forged_photographs.main([str(tmp_path)]) == 2
    assert "holds files" in capsys.readouterr().err
    assert own.read_text() == "mine"
