"""Talking heads: sound and lips say the plan, and each forgery breaks its own thing."""

import numpy as np
import pytest

from jaxkd.drawing import talking_heads as heads

SEEDS = range(12)


def mouth(head):
    """Measures the darkness of the mouth of each frame, after the face's own light."""
    grey = head.video.mean(-1)
    size = grey.shape[1]
    middle = grey[
        :, int(0.6 * size) : int(0.85 * size), int(0.35 * size) : int(0.65 * size)
    ]
    face = grey[
        :, int(0.45 * size) : int(0.52 * size), int(0.4 * size) : int(0.6 * size)
    ]
    return -middle.mean((1, 2)) / face.mean((1, 2))


def agreement(kind):
    """Correlates the mouth with the opening of the lips that the sound asks for."""
    opening = heads._TABLE[:, 5]
    scores = []
    for seed in SEEDS:
        head = heads.draw(seed, kind, size=32, frames=60)
        scores.append(np.corrcoef(mouth(head), opening[head.sounds])[0, 1])
    return np.mean(scores)


def test_lips_follow_the_sounds_unless_forged():
    real = agreement("real")
    assert real > 0.45
    assert agreement("faceswap") > real - 0.15
    for kind in ("lipsync", "shift", "swap"):
        assert agreement(kind) < real - 0.25


def test_each_forgery_is_what_it_says():
    real = heads.draw(5, size=32)
    for kind in heads.KINDS[1:]:
        fake = heads.draw(5, kind, size=32)
        np.testing.assert_array_equal(fake.wave, real.wave)
        np.testing.assert_array_equal(fake.sounds, real.sounds)
        assert np.abs(fake.video.astype(int) - real.video).max() > 10
        assert (kind == "faceswap") == np.array_equal(fake.lips, real.lips)
    shifted = heads.draw(5, "shift").lips
    gaps = [np.mean(np.roll(real.sounds, by) == shifted) for by in range(-8, 9)]
    assert abs(int(np.argmax(gaps)) - 8) >= 4
    assert max(gaps) == 1
    synced = heads.draw(5, "lipsync")
    boundaries = np.diff(synced.sounds) != 0
    assert boundaries[np.diff(synced.lips) != 0].all()
    sounds, lips = synced.sounds, synced.lips
    assert len({(s, v) for s, v in zip(sounds, lips, strict=True)}) == len(set(sounds))


def test_loudness_and_silence_of_the_artefact():
    plain = heads.draw(7, "lipsync", size=48)
    blurred = heads.draw(7, "lipsync", size=48, artefact=True)
    above = slice(0, 20)
    np.testing.assert_array_equal(plain.video[:, above], blurred.video[:, above])
    sharp = [
        np.abs(np.diff(x.video[:, 28:].astype(int), axis=2)).mean()
        for x in (plain, blurred)
    ]
    assert sharp[1] < sharp[0]
    loud = heads._TABLE[:, 4]
    wave = plain.wave.reshape(40, -1).astype(float)
    rms = np.sqrt((wave**2).mean(1))
    assert np.corrcoef(rms, loud[plain.sounds])[0, 1] > 0.6


def test_the_seed_decides():
    same, again = heads.draw((3, 4)), heads.draw((3, 4))
    np.testing.assert_array_equal(same.video, again.video)
    np.testing.assert_array_equal(same.wave, again.wave)
    assert not np.array_equal(same.video, heads.draw((3, 5)).video)
    assert len(same.wave) == 40 * 640
    noisy = heads.draw((3, 4), noise=heads.Noise(0.5, 30.0))
    np.testing.assert_array_equal(noisy.sounds, same.sounds)
    spread = noisy.video.astype(float) - same.video
    assert spread.std() > 10
    with pytest.raises(ValueError, match="kind is 'dub', expected one of real"):
        heads.draw(1, "dub")


def test_the_demo_is_read_back(tmp_path, capsys):
    pytest.importorskip("av")
    from jaxkd.readers import clips
    from jaxkd.readers.clips import lists as clip_lists

    arguments = ["--clips=1", "--frames=12", "--size=32"]
    assert heads.main([str(tmp_path), *arguments]) == 0
    assert "6 clips of 6 kinds" in capsys.readouterr().out
    rows = clip_lists.read(tmp_path)
    assert {row.kind for row in rows} == set(heads.KINDS)
    for row in rows:
        clip = clips.load(row.video)
        assert clip.status == "ok"
        assert clip.video.shape == (12, 112, 112)


def test_an_impossible_demo_is_refused(tmp_path, capsys):
    assert heads.main([str(tmp_path), "--size=15"]) == 2
    assert "an even size" in capsys.readouterr().err
    assert heads.main([str(tmp_path), "--clips=0"]) == 2
