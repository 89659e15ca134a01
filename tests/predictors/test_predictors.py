"""Which predictor a run gets, and how it is called."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxkd import predictors
from jaxkd.core.errors import UserError
from jaxkd.predictors import clips as clip_predictor
from jaxkd.predictors.inputs import output_names
from jaxkd.readers import clips


def test_a_classifier_is_asked_for_classes(finished_run):
    assert predictors.name_of(finished_run[0]) == predictors.CLASSES


def test_options_are_literals_or_text():
    given = ["size=3", "kind=lung", "exact=True", "range=(1, 2)", "path=a=b"]
    wanted = {"size": 3, "kind": "lung", "exact": True, "range": (1, 2), "path": "a=b"}
    assert predictors.parse_options(given) == wanted
    for wrong in ("size", "=3", "a b=3"):
        with pytest.raises(UserError, match="expected name=value"):
            predictors.parse_options([wrong])


def test_mistakes_are_named_before_anything_is_loaded(tmp_path):
    here = [str(tmp_path)]
    with pytest.raises(UserError, match=r"no 'embedding', expected .*'embeddings'"):
        predictors.predict("embedding", tmp_path, here, "out", {})
    with pytest.raises(UserError, match="needs --inputs"):
        predictors.predict("embeddings", tmp_path, [], "out", {})
    with pytest.raises(UserError, match=r"absent does not exist"):
        predictors.predict("embeddings", tmp_path, [f"{tmp_path}/absent"], "out", {})
    with pytest.raises(UserError, match="needs --output"):
        predictors.predict("embeddings", tmp_path, here, None, {})
    with pytest.raises(UserError, match=r"no option 'neighbors'.*'neighbours'"):
        predictors.predict("embeddings", tmp_path, here, "out", {"neighbors": 3})


def test_names_of_what_is_written():
    """As the files, numbered where that is taken; bytes beyond UTF-8 escaped."""
    odd = os.fsdecode(b"caf\xe9.png")
    paths = [Path(name) for name in ("x/a.png", "y/a.jpg", "z/a.png", odd)]
    names = output_names(paths)
    assert list(names) == ["a", "a-2", "a-3", "caf_xe9"]
    assert list(names.values()) == paths
    # What is written has a longer name than the file, which may have the longest.
    long = [Path(f"{side}/{'ü' * 125}.png") for side in "xy"]
    assert [len(f"{n}-frames.png".encode()) <= 255 for n in output_names(long)] == [
        True,
        True,
    ]


def test_clips_whose_names_are_not_utf_8_are_written(tmp_path, capsys):
    path = Path(os.fsdecode(b"caf\xe9.mp4"))
    nothing = np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.float32)
    options = clips.Preprocessing()
    clip = clips.Clip(path, clips.UNREADABLE, *nothing, notes=(f"{path} is cut",))
    found, curve = clip_predictor._one("a", clip, None, tmp_path)
    clip_predictor._write(tmp_path, [found], {"a": curve}, "run", options)
    (row,) = json.loads((tmp_path / "scores.json").read_text("utf-8"))["clips"]
    assert (row["file"], row["notes"]) == ("caf\\xe9.mp4", ["caf\\xe9.mp4 is cut"])
    assert "caf\\xe9.mp4" in (tmp_path / "index.html").read_text("utf-8")
    assert "caf\\xe9.mp4: unreadable" in capsys.readouterr().err
