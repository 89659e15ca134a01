"""Noise on the sound of clips: its ratio, whose voices it is, and the tables."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.signal import lfilter

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.datasets.batching import eval_batches
from jaxkd.evaluators import clips as evaluator
from jaxkd.evaluators.base import Member
from jaxkd.evaluators.clips import noise
from jaxkd.readers import audio
from jaxkd.report.style import StudentOrder
from tests.datasets.test_batching import INFO

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("snr", [-10.0, 0.0, 7.5, 20.0])
@pytest.mark.parametrize("loudness", [1.0, 9000.0])
def test_the_ratio_is_the_one_asked_for(snr, loudness):
    wave, disturbance = RNG.normal(5, loudness, 4000), RNG.uniform(-1, 3, 4000)
    added = noise.mix(wave, disturbance, snr) - wave
    found = 10 * np.log10(np.sum(wave**2) / np.sum(added**2))
    np.testing.assert_allclose(found, snr, atol=1e-8)
    np.testing.assert_allclose(added / added[0], disturbance / disturbance[0])


def test_a_sine_in_white_noise_has_its_power():
    """Closed form: at 10 dB below a sine of amplitude a, the variance is a^2 / 20."""
    wave = 1000 * np.sin(2 * np.pi * 50 * np.arange(160_000) / 16_000)
    source = ArraySource({"mfcc": np.zeros((1, 4, 13))})
    noisy = noise.Noisy(source, np.array([0]), [wave], noise.WHITE, 10.0)
    kept = {}
    original, audio.mfcc = audio.mfcc, lambda x, rows: kept.setdefault("wave", x)
    try:
        noisy[0]
    finally:
        audio.mfcc = original
    added = kept["wave"] - wave
    np.testing.assert_allclose(np.var(added), 1000**2 / 20, rtol=1e-4)
    spectrum = np.abs(np.fft.rfft(added)) ** 2
    quarters = [part.mean() for part in np.array_split(spectrum, 4)]
    np.testing.assert_allclose(quarters, np.mean(spectrum), rtol=0.05)  # white


def test_babble_is_of_other_clips_each_as_loud():
    """Of sines of different pitch and loudness, each other one is there alike."""
    time = np.arange(16_000) / 16_000
    pitches = np.arange(1, 9) * 100
    waves = [n * np.sin(2 * np.pi * f * time) for n, f in enumerate(pitches, 1)]
    found = noise.babble(waves, 2, np.random.default_rng(1))
    power = (np.abs(np.fft.rfft(found))[pitches] / len(time) * 2) ** 2 / 2
    assert power[2] < 1e-12
    assert np.sum(power > 0.5) == noise.VOICES
    np.testing.assert_allclose(power[power > 0.5], 1.0, rtol=1e-6)
    # Short voices are repeated, silent ones are none.
    short = [waves[0], waves[1][:4000], np.zeros(10)]
    found = noise.babble(short, 0, np.random.default_rng(0))
    np.testing.assert_allclose(found[4000:], found[:-4000], atol=1e-9)
    with pytest.raises(UserError, match="Give more test clips"):
        noise.babble([waves[0], np.zeros(9)], 0, np.random.default_rng(0))


def test_what_cannot_be_mixed():
    silent = np.zeros(9)
    np.testing.assert_array_equal(noise.mix(silent, np.ones(9), 0.0), silent)
    with pytest.raises(UserError, match="noise is silent"):
        noise.mix(np.ones(9), silent, 0.0)
    with pytest.raises(UserError, match=r"shape \(9,\) and the noise \(8,\)"):
        noise.mix(np.ones(9), np.ones(8), 0.0)
    with pytest.raises(UserError, match="no noise 'pink'"):
        noise.Noisy(ArraySource({"x": silent}), np.arange(1), [silent], "pink", 0.0)


class Hisses(ArraySource):
    """Real clips hiss low and fakes high; kind 2 is not among the training clips."""

    kind_names = ("real", "dub", "swap")

    def __init__(self):
        kinds = np.repeat(np.arange(3), 50)
        hiss = 3000 * np.random.default_rng(1).normal(size=(150, 8 * 640))
        slope = np.where(kinds > 0, 0.8, -0.8)
        self.waves = [lfilter([1], [1, a], x) for a, x in zip(slope, hiss, strict=True)]
        rows = [audio.mfcc(wave, rows=32) for wave in self.waves]
        super().__init__(
            {
                "mfcc": np.stack(rows),
                "present": np.ones((150, 8), bool),
                "kind": kinds.astype(np.int32),
                "label": (kinds > 0).astype(np.int32),
            }
        )

    def wave(self, index):
        return self.waves[index]


def predict(batch):
    """Hears a fake where coefficient 1 is low: the spectrum rises."""
    odds = -np.asarray(batch["mfcc"])[..., 1].mean(1)
    return {
        "logits": np.stack([0 * odds, odds], 1),
        "correlation": np.zeros(np.shape(batch["present"])),
    }


def study(tmp_path, test):
    train = ArraySource({"kind": np.array([0, 1])})

    def batches(source=None):
        source = test if source is None else source
        return eval_batches(source, lambda e: e, 64, info=INFO)

    return SimpleNamespace(
        dataset=SimpleNamespace(test=test, train=lambda seed: train),
        seeds=(0,),
        batches=batches,
        by_student=lambda: {"ear": [Member("ear", 0, None, None, predict)]},
        folder=tmp_path,
        student_order=StudentOrder(["ear"], None, None),
    )


def test_the_sweep_fades_to_chance(tmp_path):
    report = evaluator.evaluate(study(tmp_path, Hisses()), (-60.0, 40.0))
    table = next(t for t in report.tables if t.title == evaluator.ROBUSTNESS)
    assert table.rows[0] == ["", "noise", "", "none", "40 dB", "-60 dB"]
    rows = {tuple(row[1:3]): [float(x[:5]) for x in row[3:]] for row in table.rows[1:]}
    assert set(rows) == {
        (kind, part)
        for kind in noise.KINDS
        for part in ("seen", "unseen", "false alarms")
    }
    for kind in noise.KINDS:
        for part in ("seen", "unseen"):
            clean, mild, harsh = rows[kind, part]
            assert clean == mild == 1
            assert abs(harsh - 0.5) < 0.2  # 40 clips of each kind: four of its errors
    scores = report.scores["ear"]
    assert scores["auc_unseen_white_40dB"] == [1.0]
    assert scores["auc_unseen_white_-60dB"][0] == pytest.approx(
        rows["white", "unseen"][2], abs=1e-3
    )
    name = report.figures[1].name
    assert name == "clips-40dB--60dB-noise"
    assert (tmp_path / f"{name}-dark.png").stat().st_size > 1000


def test_a_source_without_sound_is_named(tmp_path):
    report = evaluator.evaluate(study(tmp_path, ArraySource(Hisses().arrays)), (10.0,))
    table = next(t for t in report.tables if t.title == evaluator.ROBUSTNESS)
    assert "no method wave" in table.note
    assert len(report.figures) == 1
    assert evaluator.evaluate(study(tmp_path, Hisses())).tables[-1].title != table.title
