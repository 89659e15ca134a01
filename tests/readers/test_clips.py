"""Clips written as films and read back: step, statuses, lists and the audit."""

import struct
from fractions import Fraction

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.drawing import films, talking_heads
from jaxkd.readers import clips, video
from jaxkd.readers.clips import __main__ as command
from jaxkd.readers.clips import audit as clip_audit
from jaxkd.readers.clips import check as clip_check
from jaxkd.readers.clips import lists as clip_lists

pytest.importorskip("av")
SIZE = 32
HEAD = talking_heads.draw(1, frames=50, size=SIZE)
OPTIONS = clips.Preprocessing(size=SIZE)


def rotate(path):
    """Writes a quarter turn into the header of an mp4's picture track."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    content[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))


def grey(frames):
    return frames @ np.array([0.299, 0.587, 0.114])


def test_a_film_comes_back_in_step(tmp_path):
    path = tmp_path / "clip.mp4"
    films.write(path, HEAD.video, HEAD.wave)
    clip = clips.load(path, OPTIONS)
    assert (clip.status, clip.notes, clip.usable) == ("ok", (), True)
    assert clip.video.shape == (50, SIZE, SIZE)
    assert np.abs(clip.video - grey(HEAD.video)).mean() < 4
    wave = HEAD.wave.astype(float)
    lags = [
        np.dot(clip.wave[100:-100], np.roll(wave, k)[100:-100]) for k in range(-50, 51)
    ]
    assert np.argmax(lags) == 50
    assert np.corrcoef(clip.wave, wave)[0, 1] > 0.98
    made = clips.features(clip, "video", "mfcc", "spectrogram")
    assert made["mfcc"].shape == (200, 13)
    assert made["spectrogram"].shape == (200, 321)
    with pytest.raises(UserError, match="no features lips"):
        clips.features(clip, "lips")


@pytest.mark.parametrize("fps", [30, Fraction(30000, 1001), 50, "variable"])
def test_other_rates_keep_their_time(tmp_path, fps):
    """Each frame's brightness is its time: what is read at 25 fps shows the clock."""
    path = tmp_path / "clip.mp4"
    rate = 30 if fps == "variable" else float(fps)
    times = np.arange(60) / rate
    if fps == "variable":
        times = (
            np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.06], 60)) - 0.02
        )
    shade = np.rint(40 + 60 * times)
    frames = np.broadcast_to(shade[:, None, None, None], (60, SIZE, SIZE, 3))
    sound = np.repeat(HEAD.wave, 2)[: round(16000 * (times[-1] + 1 / rate))]
    films.write(
        path,
        frames.astype(np.uint8),
        sound,
        fps=Fraction(fps) if fps != "variable" else 30,
        times=times,
    )
    clip = clips.load(path, OPTIONS)
    assert clip.status == "ok"
    assert any("resampled to 25" in note for note in clip.notes)
    assert any("varying" in note for note in clip.notes) == (fps == "variable")
    shown = (clip.video.mean((1, 2)) - 40) / 60
    late = shown - np.arange(len(shown)) / 25
    gap = np.diff(times).max() / 2
    assert np.abs(late - np.median(late)).max() < gap + 0.03
    assert abs(len(clip.video) / 25 - (times[-1] - times[0])) < 0.1


def test_stereo_at_another_rate_and_sound_beside_the_film(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    from jaxkd.readers.audio import resample

    path = tmp_path / "clip.mp4"
    high = resample(HEAD.wave.astype(np.float32), 16000, 44100).astype(np.int16)
    films.write(path, HEAD.video, np.stack([high, high], 1), rate=44100)
    clip = clips.load(path, OPTIONS)
    assert clip.status == "ok"
    assert np.corrcoef(clip.wave, HEAD.wave[: len(clip.wave)])[0, 1] > 0.98
    films.write(path, HEAD.video)
    assert clips.load(path, OPTIONS).status == "no_audio"
    soundfile.write(tmp_path / "clip.wav", HEAD.wave, 16000)
    clip = clips.load(path, OPTIONS)
    assert clip.status == "ok"
    np.testing.assert_allclose(clip.wave, HEAD.wave, atol=1)


def test_faults_have_a_status_each(tmp_path):
    def status(name, **options):
        clip = clips.load(tmp_path / name, OPTIONS._replace(**options))
        assert clip.usable == (clip.status in ("ok", "truncated"))
        return clip.status

    films.write(tmp_path / "silent.mp4", HEAD.video, 0 * HEAD.wave)
    assert status("silent.mp4") == "silent"
    allowed = clips.load(tmp_path / "silent.mp4", OPTIONS._replace(allow_silent=True))
    assert (allowed.status, allowed.usable) == ("silent", True)
    films.write(tmp_path / "short.mp4", HEAD.video[:4], HEAD.wave[:2560])
    assert status("short.mp4") == "too_short"
    assert status("short.mp4", min_frames=3) == "ok"
    films.write(tmp_path / "odd.mp4", HEAD.video, HEAD.wave[:12000])
    assert status("odd.mp4") == "length_mismatch"
    films.write(tmp_path / "cut.mp4", HEAD.video, HEAD.wave[:25600])
    clip = clips.load(tmp_path / "cut.mp4", OPTIONS)
    assert clip.status == "ok"
    assert "differ by" in clip.notes[0]
    assert 38 <= len(clip.video) <= 42
    (tmp_path / "text.mp4").write_text("no film")
    assert status("text.mp4") == "unreadable"
    assert status("absent.mp4") == "unreadable"


def test_cut_files_are_read_as_far_as_they_go(tmp_path):
    noisy = HEAD.video.astype(int) + np.random.default_rng(0).integers(
        -20, 20, HEAD.video.shape
    )
    whole = tmp_path / "whole.mp4"
    films.write(whole, noisy.clip(0, 255).astype(np.uint8), HEAD.wave, faststart=True)
    content = whole.read_bytes()
    (tmp_path / "most.mp4").write_bytes(content[: int(0.8 * len(content))])
    clip = clips.load(tmp_path / "most.mp4", OPTIONS)
    assert clip.status == "truncated"
    assert clip.usable
    assert 25 <= len(clip.video) < 50
    (tmp_path / "little.mp4").write_bytes(content[: int(0.2 * len(content))])
    assert clips.load(tmp_path / "little.mp4", OPTIONS).status == "unreadable"


def test_damaged_times_and_sizes_take_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    films.write(path, HEAD.video[:3], times=[0, 0.04, 60])
    with pytest.raises(UserError, match=r"shows 3 frames in .* Its times are"):
        video.read_film(path)
    film = video.Film(np.zeros((5, SIZE, SIZE), np.uint8), 0.0, 0.2, 25.0)
    late = video.Sound(np.ones(3200, np.float32), 16_000, start=1e12)
    frames, wave, trouble = clips.align(film, late)
    assert len(frames) == 5 and not wave.any() and trouble > 0.99
    monkeypatch.setattr(video, "BLANK_PIXELS", SIZE * SIZE - 1)
    with pytest.raises(UserError, match="no picture that can be decoded"):
        video.read_film(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fps", 0.0, "expected 1 to 1,000"),
        ("fps", np.nan, "expected 1 to 1,000"),
        ("fps", np.array("x"), "a clip with fps"),
        ("sr", 1, "samples per second"),
        ("audio", np.array("x"), "expected int16 [samples]"),
        ("audio", np.zeros((9, 2), np.int16), "audio is int16 [9, 2], expected"),
        ("audio", np.zeros(9), "audio is float64 [9], expected int16"),
        ("audio", np.int16(3), "audio is int16 [], expected"),
        ("video", np.zeros((0, 8, 8), np.uint8), "video is uint8 [0, 8, 8], expected"),
        ("video", np.zeros((9, 0, 8), np.uint8), "video is uint8 [9, 0, 8], expected"),
    ],
)
def test_impossible_arrays_are_refused(tmp_path, name, value, message):
    path = tmp_path / "clip.npz"
    sound = np.zeros(9, np.int16)
    arrays = {"video": np.zeros((9, SIZE, SIZE), np.uint8), "audio": sound}
    np.savez(path, **arrays | {name: value})
    clip = clips.load(path, OPTIONS)
    assert clip.status == "unreadable" and message in clip.notes[0]


@pytest.mark.parametrize("track", ["video", "audio"])
def test_damage_in_the_middle_is_noticed(tmp_path, track):
    import av

    path = tmp_path / "clip.mp4"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, HEAD.video.shape).astype(np.uint8)
    films.write(path, noise, HEAD.wave)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(**{track: 0}) if p.pos is not None]
        place, size = packets[20].pos, packets[20].size
    content = bytearray(path.read_bytes())
    content[place + size // 3 : place + size] = rng.bytes(size - size // 3)
    path.write_bytes(content)
    clip = clips.load(path, OPTIONS)
    assert (clip.status, clip.usable) == ("truncated", True)
    assert "damaged" in clip.notes[0]


def test_ten_bits_and_a_quarter_turn(tmp_path):
    path = tmp_path / "deep.mp4"
    films.write(path, HEAD.video, HEAD.wave, pixel_format="yuv420p10le")
    clip = clips.load(path, OPTIONS)
    assert clip.status == "ok"
    assert np.abs(clip.video - grey(HEAD.video)).mean() < 4
    films.write(path, HEAD.video, HEAD.wave)
    rotate(path)
    turned = clips.load(path, OPTIONS)
    # The matrix turns the picture by a quarter, clockwise.
    upright = np.rot90(grey(HEAD.video), -1, axes=(1, 2))
    assert np.abs(turned.video - upright).mean() < 4


def test_arrays_are_clips_too(tmp_path):
    frames = np.rint(grey(HEAD.video)).astype(np.uint8)
    path = tmp_path / "clip.npz"
    np.savez(path, video=frames, audio=HEAD.wave, fps=25.0, sr=16000)
    clip = clips.load(path, OPTIONS)
    assert clip.status == "ok"
    np.testing.assert_allclose(clip.video, frames, atol=1)
    np.savez(path, video=frames.astype(float), audio=HEAD.wave)
    assert "expected uint8" in clips.load(path, OPTIONS).notes[0]


def test_leading_silence_is_cut_from_both(tmp_path):
    path = tmp_path / "clip.npz"
    frames = np.rint(grey(HEAD.video)).astype(np.uint8)
    late = np.concatenate([np.zeros(6400, np.int16), HEAD.wave])[:32000]
    np.savez(path, video=frames, audio=late)
    clip = clips.load(path, OPTIONS._replace(trim_leading_silence=True))
    assert clip.leading_silence == pytest.approx(0.4, abs=0.02)
    np.testing.assert_allclose(clip.video, frames[10:], atol=1)
    np.testing.assert_allclose(clip.wave, late[6400:], atol=1)
    assert clip.skipped == 10 and clip.notes == ("0.40 s of leading silence cut",)
    np.savez(path, video=frames, audio=0 * late)  # nothing would be left
    silent = clips.load(path, OPTIONS._replace(trim_leading_silence=True))
    assert silent.status == "silent" and len(silent.video) == 50


def test_sound_that_is_no_number_has_its_status(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    films.write(tmp_path / "clip.mp4", HEAD.video)
    wave = HEAD.wave / 32768
    wave[100] = np.nan
    soundfile.write(tmp_path / "clip.wav", wave, 16_000, "FLOAT")
    clip = clips.load(tmp_path / "clip.mp4", OPTIONS)
    assert (clip.status, clip.usable) == ("unreadable", False)
    assert clip.notes == ("the sound holds values that are no numbers",)


def test_a_hole_in_the_sound_is_silence_and_what_follows_stays_in_step(tmp_path):
    import av

    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for first in (0, 9600):  # 0.2 s, and 0.2 s more from 0.6 s on
            part = HEAD.wave[first : first + 3200]
            frame = av.AudioFrame.from_ndarray(part[None], "s16", "mono")
            frame.rate, frame.pts = 16_000, first
            frame.time_base = Fraction(1, 16_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sound = video.read_sound(path)
    expected = HEAD.wave[:12_800].astype(float)
    expected[3200:9600] = 0
    assert len(sound.wave) == 12_800 and not sound.damaged
    np.testing.assert_allclose(sound.wave, expected, atol=20)  # times are whole ms


def test_the_largest_face_is_followed():
    boxes = []
    for frame in range(40):
        large = [10 + frame, 20, 30, 30]
        small = [80, 20, 12, 12]
        boxes.append(np.array([small] if frame in (12, 13) else [small, large], float))
    track, faces, found = video.follow(boxes)
    assert faces == 2
    assert found == pytest.approx(38 / 40)
    # The middle of the large face, also where it was not found.
    np.testing.assert_allclose(track[8:32, 0], np.arange(8, 32) + 25, atol=0.01)
    np.testing.assert_allclose(track[:, 2], 15)
    assert video.follow([np.zeros((0, 4))] * 3)[0] is None
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 40:60] = 255
    crop = video.around(image, np.array([50.0, 46.0, 10.0]), 28)
    assert crop[:4].mean() < crop[4:24, 4:24].mean()
    edge = video.around(image, np.array([0.0, 50.0, 20.0]), 28)
    np.testing.assert_array_equal(edge[:, :10], video.PAD_GREY)


def test_a_film_without_faces_has_its_status(tmp_path):
    path = tmp_path / "clip.mp4"
    films.write(path, HEAD.video, HEAD.wave)
    film = video.read_film(path, size=SIZE, detect=lambda image: np.zeros((0, 4)))
    sound = video.read_sound(path)
    assert clips.assemble(path, film, sound, OPTIONS).status == "no_face"
    film = video.read_film(
        path, size=SIZE, detect=lambda image: np.array([[4.0, 4, 24, 24]])
    )
    clip = clips.assemble(path, film, sound, OPTIONS)
    assert (clip.status, clip.faces, len(clip.video)) == ("ok", 1, 50)
    with pytest.raises(UserError, match="no face model"):
        clips.load(path, OPTIONS._replace(crop="detect", face_model="none.onnx"))
    with pytest.raises(UserError, match="crop is 'face', expected one of"):
        clips.load(path, OPTIONS._replace(crop="face"))


def test_manifests_in_the_official_columns(tmp_path):
    table = tmp_path / "FAKE_W2L.csv"
    table.write_text(
        "ID_Name,Audio_Path,Video_Path,ENtire_Label,Audio_Label,Video_Label,"
        "Identi_Label,Sync_Label,Frame_Len,Audio_Len,FPS,AudioSamRate\n"
        "a,a.wav,a.mp4,0,0,0,1,1,139.0,88960,25.0,16000\n"
        "b,b.wav,sub/b.mp4,1,1,0,1,0,139.0,88960,25.0,16000\n"
    )
    (tmp_path / "._FAKE_W2L.csv").write_bytes(b"\0")
    first, second = clip_lists.read(tmp_path)
    assert (first.name, first.fake, first.kind) == ("a", 0, "real")
    assert second.video == tmp_path / "sub/b.mp4"
    assert (second.fake, second.kind, second.audio) == (
        1,
        "FAKE_W2L",
        tmp_path / "b.wav",
    )
    assert second.labels == {"audio": 1, "video": 0, "identi": 1, "sync": 0}
    table.write_text("video_path,entire_label\na.mp4,2\n")
    with pytest.raises(UserError, match="line 2: entire_label is '2', expected 0 or 1"):
        clip_lists.read(table)
    table.write_text("video_path,entire_label\n\n,1\n")
    with pytest.raises(UserError, match="line 3: video_path is empty"):
        clip_lists.read(table)
    table.write_text("video_path,entire_label\na,b.mp4,1\n")
    with pytest.raises(UserError, match="line 2: 3 cells, expected 2"):
        clip_lists.read(table)
    table.write_text("path,label\na.mp4,1\n")
    with pytest.raises(UserError, match="no column entire_label, video_path"):
        clip_lists.read(table)


def test_clips_of_several_lists_are_taken_once(tmp_path):
    """The tables of all forgeries list the same real clips."""
    for kind in ("W2L", "MakeItTalk"):
        (tmp_path / f"{kind}.csv").write_text(
            f"\ufeffVideo_Path,ENtire_Label\nreal.mp4,0\n{kind}.mp4,1\n"
        )
    rows = clip_lists.read(tmp_path, tmp_path / "films")
    assert [row.kind for row in rows] == ["real", "MakeItTalk", "W2L"]
    assert {row.video.parent for row in rows} == {tmp_path / "films"}
    (tmp_path / "W2L.csv").write_text("video_path,entire_label\nreal.mp4,1\n")
    with pytest.raises(UserError, match=r"real\.mp4 is listed as real and as fake"):
        clip_lists.read(tmp_path)


def test_folders_and_the_audit(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frames = np.rint(grey(HEAD.video)).astype(np.uint8)
    for kind in ("real", "fake/tts"):
        (tmp_path / kind).mkdir(parents=True)
        for number in range(10):
            wave = np.roll(HEAD.wave, int(rng.integers(16000)))
            if kind != "real":  # the trap: fakes begin with silence
                wave = np.concatenate([np.zeros(800, np.int16), wave])[:32000]
            np.savez(tmp_path / kind / f"{number}.npz", video=frames, audio=wave)
    rows = clip_lists.read(tmp_path)
    assert [row.kind for row in rows] == ["real"] * 10 + ["tts"] * 10
    assert command.main(["audit", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "WARNING: above 0.8: leading silence (all): 1.000" in text
    _, leaks = clip_audit.audit(
        tmp_path, clips.Preprocessing(trim_leading_silence=True)
    )
    assert not any(leak.startswith("leading silence") for leak in leaks)
    assert command.main(["audit", str(tmp_path / "real")]) == 2
    assert len(clips.find([tmp_path])) == 20
    with pytest.raises(UserError, match="no file or folder"):
        clips.find([tmp_path / "absent"])


def test_the_check_shows_crops_and_finds_sets_out_of_step(tmp_path, capsys):
    folder, late = tmp_path / "clips", 5
    folder.mkdir()
    for number in range(6):
        head = talking_heads.draw(number, frames=100, size=SIZE)
        frames = np.rint(grey(head.video)).astype(np.uint8)
        wave = np.roll(head.wave, late * 640)
        np.savez(folder / f"{number}.npz", video=frames, audio=wave)
    (folder / "text.mp4").write_text("no film")
    out = tmp_path / "out"
    arguments = ["check", str(folder), "--output", str(out), "--size", "32"]
    assert command.main(arguments) == 0
    text = capsys.readouterr().out
    assert "over 6 clips, sound changes 0.20 s after the lower face" in text
    assert "text.mp4: unreadable" in text
    assert "0.npz: ok; 100 frames of 32 pixels; 25 fps" in text
    page = (out / "index.html").read_text()
    assert page.count("<img") == 6 and "unreadable" in page
    assert (out / "0005.png").stat().st_size > 5000
    assert command.main([*arguments[:-1], "0"]) == 2
    assert "size is 0" in capsys.readouterr().err


def test_loudness_and_motion_in_closed_form():
    time = np.arange(3 * 640) / 16_000
    wave = 32768 * 0.1 * np.sin(2 * np.pi * 100 * time)  # four periods a frame
    wave[640:1280] = 0
    expected = 10 * np.log10(0.1**2 / 2)
    found = clip_check.loudness(wave, 4)
    np.testing.assert_allclose(found, [expected, -60, expected, -60])
    film = np.zeros((3, 8, 8), np.uint8)
    film[1, :4] = 200  # the upper half does not count
    film[2, 4:, :4] = 10
    np.testing.assert_array_equal(clip_check.motion(film), [0, 0, 5])
    still = clips.Clip("x", "ok", np.zeros((60, 8, 8), np.uint8), np.ones(60 * 640))
    assert clip_check.agreement(still) is None
    assert "0 clips are long enough" in clip_check.alignment([])
