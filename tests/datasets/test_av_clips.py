"""Clips of one's own as a data set: splits, balance, windows, posteriors, cache."""

import itertools

import numpy as np
import pytest

from jaxkd.aot import fake_data
from jaxkd.core.errors import UserError
from jaxkd.datasets import av_clips, batching, clip_files, talking_heads
from jaxkd.drawing import talking_heads as heads
from jaxkd.readers import audio

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for kind, count in (("real", 3), ("fake/swap", 9)):
        for split in ("train", "test"):
            below = root / split / kind
            below.mkdir(parents=True)
            for number in range(count):
                head = heads.draw((number, len(kind)), frames=12, size=16)
                frames = head.video[..., 0]
                np.savez(below / f"{number}.npz", video=frames, audio=head.wave)
                rows = RNG.dirichlet(np.ones(4), (2, 12))
                path = below / f"{number}.posteriors.npz"
                np.savez(path, audio=rows[0], video=rows[1])
                path.rename(below / f"{number}.posteriors.npz")
    return root


def load(folder, tmp_path, **options):
    # Posteriors are npz files too: only those that hold a film are clips.
    return av_clips.load(
        str(folder), **{"frames": 16, "size": 16, "cache": str(tmp_path), **options}
    )


def test_clips_are_split_balanced_padded_and_kept(folder, tmp_path):
    data = load(folder, tmp_path, posteriors=True)
    train, test = data.train(0), data.test
    assert (len(train), len(test)) == (18, 12)
    labels = [int(train[i]["label"]) for i in range(len(train))]
    assert sum(labels) == 9
    example = data.prepare_test(test[0])
    for name, shape in data.fields.items():
        assert example[name].shape == shape.shape
        assert example[name].dtype == shape.dtype
    assert example["present"].sum() == 12
    assert not example["video"][12:].any()
    np.testing.assert_allclose(example["audio_posteriors"][:12].sum(-1), 1, rtol=1e-5)
    known = fake_data.make("av_clips", frames=16, size=16)
    assert known.fields == load(folder, tmp_path).fields
    assert test.kind_names == ("real", "swap")
    kept = list(tmp_path.glob("*.npz"))
    assert len(kept) >= 12
    kept[0].write_bytes(b"damaged")  # is made again
    again = load(folder, tmp_path)
    for i in range(len(again.test)):
        np.testing.assert_array_equal(again.test[i]["video"], test[i]["video"])


def test_windows_keep_sound_and_lips_together():
    length = 10
    example = {
        "video": np.arange(length, dtype=np.uint8)[:, None, None]
        * np.ones((2, 2), np.uint8),
        "mfcc": np.repeat(np.arange(length), 4)[:, None] * np.ones(13, np.float32),
    }
    starts = set()
    for seed in range(60):
        cut = av_clips.fit(example, 6, np.random.default_rng(seed))
        starts.add(int(cut["video"][0, 0, 0]))
        np.testing.assert_array_equal(
            np.repeat(cut["video"][:, 0, 0], 4), cut["mfcc"][:, 0]
        )
        assert cut["present"].all()
    assert starts == set(range(5))
    assert av_clips.fit(example, 6)["video"][0, 0, 0] == 0


def test_a_batch_is_as_long_as_its_bucket(tmp_path):
    lengths = {"real": (8, 9, 20), "fake/swap": (8, 12, 15, 16)}
    for kind, own in lengths.items():
        for split in ("train", "test"):
            below = tmp_path / split / kind
            below.mkdir(parents=True)
            for number, frames in enumerate(own):
                head = heads.draw((number, len(kind)), frames=frames, size=16)
                path = below / f"{number}.npz"
                np.savez(path, video=head.video[..., 0], audio=head.wave)
    data = load(tmp_path, tmp_path / "cache", buckets=(10,))
    source = data.train(0)
    frames = [len(source[i]["video"]) for i in range(len(source))]
    assert sorted(frames) == [8, 8, 8, 9, 12, 15, 16, 20]  # a real one is repeated
    np.testing.assert_array_equal(source.buckets, np.array(frames) > 10)
    stream = batching.batches(
        source, data.prepare_train, 4, info=data.info, seed=0, workers=0
    )
    drawn = list(itertools.islice(stream, 8))
    for batch in drawn:
        length = batch["video"].shape[1]
        assert batch["mfcc"].shape[1] == 4 * length
        present = batch["present"].sum(1)
        assert present.min() > 10 if length == 16 else present.max() < 10
    assert {batch["video"].shape[1] for batch in drawn} == {10, 16}
    assert data.prepare_test(data.test[0])["video"].shape[0] == 16
    assert data.fields["video"].shape[0] == 16
    # Lengths that are known are not measured again from the pictures.
    reader = source.reader
    reader._features = None
    assert [reader.frames(row) for row in source.rows] == frames
    with pytest.raises(UserError, match=r"buckets is \(10, 20\), expected .* 1 to 16"):
        load(tmp_path, tmp_path / "cache", buckets=(10, 20))


def test_the_sound_of_a_clip_is_what_its_coefficients_are_of(folder, tmp_path):
    test = load(folder, tmp_path).test
    for index in (0, 5):
        example, wave = test[index], test.wave(index)
        assert wave.shape == (12 * 640,)
        rows = len(example["mfcc"])
        np.testing.assert_array_equal(audio.mfcc(wave, rows=rows), example["mfcc"])
    drawn = {"frames": 8, "size": 12, "test": 2, "cache": str(tmp_path)}
    test = talking_heads.load({"real": 1}, **drawn).test
    for index in (0, 3):
        found = audio.mfcc(test.wave(index), rows=32)
        np.testing.assert_array_equal(found, test[index]["mfcc"])


def test_what_is_wrong_is_said(folder, tmp_path):
    with pytest.raises(UserError, match="has 0 fakes of 0 clips"):
        load(folder, tmp_path, evaluate_on="val")
    bad = folder / "test/real/bad.npz"
    np.savez(bad, video=np.zeros((3, 16, 16), np.uint8), audio=np.zeros(1920, np.int16))
    try:
        data = load(folder, tmp_path)
        index = [row.video.name for row in data.test.rows].index("bad.npz")
        with pytest.raises(UserError, match=r"bad\.npz cannot be used \(too_short\)"):
            data.test[index]
        assert len(load(folder, tmp_path, skip_bad=True).test) == 12
    finally:
        bad.unlink()
    path = folder / "train/real/0.npz"
    with pytest.raises(UserError, match="has 12 and 12 rows, expected 30"):
        clip_files.read_posteriors(path, 30)
    with pytest.raises(UserError, match="cannot be read"):
        clip_files.read_posteriors(folder / "none.npz", 3)


def test_drawn_sets_are_kept_and_their_parts_differ(tmp_path):
    options = {"frames": 8, "size": 12, "test": 1, "cache": str(tmp_path)}
    data = talking_heads.load({"real": 2, "lipsync": 1}, **options)
    train = data.train(0)
    assert [int(train[i]["kind"]) for i in range(3)] == [0, 0, 2]
    assert [int(train[i]["label"]) for i in range(3)] == [0, 0, 1]
    assert len(data.test) == 6
    again = talking_heads.load({"real": 2, "lipsync": 1}, **options).train(0)
    np.testing.assert_array_equal(train.arrays["video"], again.arrays["video"])
    assert not np.array_equal(train[0]["video"], data.test[0]["video"])
    # A clip does not depend on how many there are.
    more = talking_heads.load({"real": 3}, **options).train(0)
    np.testing.assert_array_equal(more[1]["mfcc"], train[1]["mfcc"])
    with pytest.raises(UserError, match="no kind 'dub'"):
        talking_heads.load({"dub": 2}, **options)


def test_posteriors_follow_the_frames_where_silence_is_cut(tmp_path):
    """Posteriors are of the whole film, of which the first 10 frames are left out."""
    for split in ("train", "test"):
        for kind in ("real", "fake/swap"):
            below = tmp_path / split / kind
            below.mkdir(parents=True)
            head = heads.draw(1, frames=30, size=16)
            wave = head.wave.copy()
            wave[:6400] = 0
            np.savez(below / "0.npz", video=head.video[..., 0], audio=wave)
            share = np.linspace(0.1, 0.9, 30)
            rows = np.stack([share, 1 - share], 1)
            np.savez(below / "0.posteriors.npz", audio=rows, video=rows)
    options = {"posteriors": True, "trim_leading_silence": True}
    data = load(tmp_path, tmp_path / "cache", **options)
    example = data.test[0]
    assert len(example["video"]) == 20 and "span" not in example
    np.testing.assert_allclose(example["video_posteriors"][:, 0], share[10:], rtol=1e-6)
    beside = data.test.rows[0].video
    with pytest.raises(UserError, match=r"has 30 and 30 rows, expected 15"):
        clip_files.read_posteriors(beside, 15, total=15)  # 50 rows a second, not 25


def test_missing_shared_and_stale_files_are_noticed(tmp_path, capsys):
    table = tmp_path / "clips.csv"
    lines = ["video_path,entire_label,kind,split"]
    for name, fake in (("a", 0), ("b", 1)):
        head = heads.draw(fake, frames=12, size=16)
        np.savez(tmp_path / f"{name}.npz", video=head.video[..., 0], audio=head.wave)
        lines += [f"{name}.npz,{fake},x,{split}" for split in ("train", "test")]
    table.write_text("\n".join(lines))
    data = load(table, tmp_path / "cache")
    assert "2 clips are for training and for testing" in capsys.readouterr().err
    row = data.test.rows[0]
    before = data.test.reader._place(row)
    (tmp_path / "a.wav").write_bytes(b"another sound")
    assert data.test.reader._place(row) != before
    table.write_text("\n".join(lines[:-1]))  # a test of real clips alone
    assert len(load(table, tmp_path / "cache").test) == 1
    with pytest.raises(UserError, match=r"names 3 files that are not there, .*base"):
        load(table, tmp_path / "cache", base=str(tmp_path / "elsewhere"))
