"""Judging of people's own clips: a row and a status for each, whatever is wrong."""

import csv
import json
from fractions import Fraction
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import predictors
from jaxkd.drawing import films, talking_heads
from jaxkd.predictors import clips as predictor
from tests.readers.test_clips import rotate

pytest.importorskip("av")
SIZE = 32
HEAD = talking_heads.draw(1, frames=50, size=SIZE)


@pytest.fixture
def run(monkeypatch):
    """A run whose network calls bright frames forged; its data are a test's to set."""
    data = ConfigDict({"name": "av_clips"})

    def apply(batch):
        light = batch["video"].astype(jnp.float32).mean((2, 3)) / 255
        embedding = jnp.stack([light, 1 - light], -1)
        logits = jnp.stack([0 * light, light], -1)
        return logits, {"audio": embedding, "video": embedding[..., ::-1]}

    restored = SimpleNamespace(
        name="all",
        results={"name": "run"},
        info=SimpleNamespace(image_shape=(40, SIZE, SIZE)),
        config=ConfigDict({"method": "cmdfd", "data": data}),
        apply=apply,
    )
    monkeypatch.setattr(predictor, "restore", lambda *given: restored)
    return restored.config.data


def predict(folder, output, **options):
    text = predictors.predict("clips", folder, [str(folder)], str(output), options)
    rows = list(csv.DictReader((output / "scores.csv").read_text().splitlines()))
    return text, {row["name"]: row for row in rows}


def write_films(folder):
    folder.mkdir()
    video, wave = HEAD.video, HEAD.wave
    twice = np.repeat(wave, 3)[:44100].astype(np.int16)
    films.write(folder / "good.mp4", video, wave)
    films.write(folder / "thirty.mp4", video, wave[:26_666], fps=30)
    films.write(folder / "ntsc.mp4", video, wave[:26_666], fps=Fraction(30_000, 1001))
    times = np.cumsum(np.tile([0.02, 0.06], 25)) - 0.02
    films.write(folder / "variable.mp4", video, wave, times=times)
    films.write(folder / "stereo.mp4", video[:25], np.stack([twice] * 2, 1), rate=44100)
    films.write(folder / "deep.mp4", video, wave, pixel_format="yuv420p10le")
    films.write(folder / "turned.mp4", video, wave)
    rotate(folder / "turned.mp4")
    films.write(folder / "mute.mp4", video)
    films.write(folder / "silent.mp4", video, 0 * wave)
    films.write(folder / "four.mp4", video[:4], wave[:2560])
    noise = np.random.default_rng(0).integers(0, 256, video.shape).astype(np.uint8)
    films.write(folder / "whole.mp4", noise, wave, faststart=True)
    content = (folder / "whole.mp4").read_bytes()
    (folder / "most.mp4").write_bytes(content[: int(0.8 * len(content))])
    (folder / "little.mp4").write_bytes(content[: int(0.2 * len(content))])
    (folder / "whole.mp4").rename(folder / f"{'w' * 251}.mp4")  # the longest name
    (folder / "text.mp4").write_text("no film")
    frames = np.zeros((9, SIZE, SIZE), np.uint8)
    np.savez(folder / "stereo_arrays.npz", video=frames, audio=np.zeros((9, 2), "i2"))


def test_every_film_has_its_row_and_its_status(tmp_path, run):
    write_films(tmp_path / "films")
    text, rows = predict(tmp_path / "films", tmp_path / "found")
    whole = "w" * 200
    good = ("good", "thirty", "ntsc", "variable", "stereo", "deep", "turned", whole)
    assert {name: row["status"] for name, row in rows.items()} == {
        **dict.fromkeys(good, "ok"),
        **{"mute": "no_audio", "silent": "silent", "four": "too_short"},
        **{"most": "truncated", "little": "unreadable", "text": "unreadable"},
        "stereo_arrays": "unreadable",
    }
    assert "15 clips, 9 scored" in text
    for name, row in rows.items():
        assert bool(row["score"]) == (row["status"] in ("ok", "truncated")), name
        changed = row["status"] != "ok" or row["fps"] != "25.000000"
        assert bool(row["notes"]) == changed, name
    light = float(rows["good"]["score"])
    assert 0.1 < light < 0.9
    for name in ("thirty", "ntsc", "variable", "deep", "turned"):
        assert float(rows[name]["score"]) == pytest.approx(light, abs=0.03)
    assert (tmp_path / "found" / f"{whole}-frames.png").stat().st_size > 100


def test_clips_are_read_as_those_of_the_training(tmp_path, run):
    """And the times that are named are those of the file, before anything was cut."""
    (tmp_path / "clips").mkdir()
    wave = HEAD.wave.copy()
    wave[:6400] = 0
    np.savez(tmp_path / "clips/late.npz", video=HEAD.video[..., 0], audio=wave)
    _, rows = predict(tmp_path / "clips", tmp_path / "whole")
    assert rows["late"]["frames"] == "50"
    run.trim_leading_silence = True
    _, rows = predict(tmp_path / "clips", tmp_path / "cut")
    assert rows["late"]["frames"] == "40"
    assert min(map(float, rows["late"]["lowest"].split("; "))) >= 0.4
    content = json.loads((tmp_path / "cut/scores.json").read_text())
    assert content["preprocessing"]["trim_leading_silence"] is True
    assert content["clips"][0]["per_frame"]["start"] == 0.4
    _, rows = predict(tmp_path / "clips", tmp_path / "own", trim_leading_silence=False)
    assert rows["late"]["frames"] == "50"
