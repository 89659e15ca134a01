"""Features of speech, re-derived sample by sample, and sound files of every format."""

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.readers import audio

RNG = np.random.default_rng(0)
WAVE = np.rint(3000 * RNG.normal(size=5000))


def speech_features(signal, rate=16000, size=640, step=160, fft=640):
    """python_speech_features' definition in plain loops."""
    emphasised = [signal[0]]
    emphasised += [signal[n] - 0.97 * signal[n - 1] for n in range(1, len(signal))]
    count = 1 + int(np.ceil((len(signal) - size) / step)) if len(signal) > size else 1
    emphasised += [0.0] * ((count - 1) * step + size - len(emphasised))
    hz = [0.0]
    top = 2595 * np.log10(1 + rate / 2 / 700)
    hz = [700 * (10 ** (top * i / 27 / 2595) - 1) for i in range(28)]
    bins = [int((fft + 1) * f / rate) for f in hz]
    rows = []
    for start in range(0, count * step, step):
        power = np.abs(np.fft.fft(emphasised[start : start + size], fft)) ** 2 / fft
        power = power[: fft // 2 + 1]
        bands = []
        for left, middle, right in zip(bins, bins[1:], bins[2:], strict=False):
            total = sum(
                (k - left) / (middle - left) * power[k] for k in range(left, middle)
            )
            total += sum(
                (right - k) / (right - middle) * power[k] for k in range(middle, right)
            )
            bands.append(np.log(total or np.finfo(float).eps))
        row = []
        for n in range(13):
            wave = [
                b * np.cos(np.pi * n * (2 * m + 1) / 52) for m, b in enumerate(bands)
            ]
            scale = np.sqrt((1 if n == 0 else 2) / 26)
            row.append(scale * sum(wave) * (1 + 11 * np.sin(np.pi * n / 22)))
        row[0] = np.log(power.sum() or np.finfo(float).eps)
        rows.append(row)
    return np.array(rows)


def test_mfcc_is_the_definition():
    expected = speech_features(WAVE)
    mine = audio.mfcc(WAVE)
    assert mine.shape == expected.shape == (1 + 28, 13)
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-4)
    short = WAVE[:300]
    np.testing.assert_allclose(
        audio.mfcc(short), speech_features(short), rtol=1e-5, atol=1e-4
    )
    # Other frame rates rescale windows and steps, and leave the FFT as it is.
    expected = speech_features(WAVE, size=512, step=128)
    np.testing.assert_allclose(
        audio.mfcc(WAVE, fps=31.25), expected, rtol=1e-5, atol=1e-4
    )


def test_spectrogram_is_scipy_s_stft():
    from scipy.signal import stft

    wave = WAVE / np.abs(WAVE).max()
    wave = wave / np.sqrt(np.mean(wave**2))
    _, _, expected = stft(wave, 16000, "hamming", 640, 480, boundary=None, padded=False)
    mine = audio.spectrogram(WAVE)
    np.testing.assert_allclose(mine, np.abs(expected).T, rtol=1e-4, atol=1e-6)
    assert audio.spectrogram(RNG.normal(size=16000)).shape == (97, 321)


def test_frame_rates_whose_windows_would_run_backwards_are_refused():
    assert audio.spectrogram(WAVE, fps=19).shape[1] == 321
    with pytest.raises(UserError, match=r"fps is 15, expected more than 18\.75"):
        audio.spectrogram(WAVE, fps=15)


def test_silence_is_finite():
    nothing = np.zeros(1600)
    assert np.isfinite(audio.mfcc(nothing, rows=12)).all()
    np.testing.assert_array_equal(audio.spectrogram(nothing, rows=12), 0)
    assert audio.level(nothing) == 0
    assert audio.leading_silence(nothing) == pytest.approx(0.1)


def test_rows_are_cut_repeated_or_wrapped():
    full = audio.mfcc(WAVE)
    np.testing.assert_array_equal(audio.mfcc(WAVE, rows=8), full[:8])
    longer = audio.mfcc(WAVE, rows=33)
    np.testing.assert_array_equal(longer[29:], full[[28] * 4])
    wrapped = audio.mfcc(WAVE, rows=33, fill="wrap")
    np.testing.assert_array_equal(wrapped[29:], full[:4])
    with pytest.raises(UserError, match="fill is 'zeros', expected one of"):
        audio.mfcc(WAVE, rows=40, fill="zeros")
    with pytest.raises(UserError, match=r"shape \(5000, 2\), expected \[samples\]"):
        audio.mfcc(np.stack([WAVE, WAVE], 1))


def test_leading_silence_is_measured():
    tone = 8000 * np.sin(np.arange(8000) / 5)
    assert audio.leading_silence(tone) == 0
    late = np.concatenate([np.zeros(3200), tone])
    assert audio.leading_silence(late) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate"),
    [("wav", "PCM_16", 16000), ("wav", "FLOAT", 8000), ("flac", "PCM_24", 44100)],
)
def test_files_of_every_format_give_the_same_signal(tmp_path, suffix, subtype, rate):
    soundfile = pytest.importorskip("soundfile")
    seconds = np.arange(rate) / rate
    left = 0.5 * np.sin(2 * np.pi * 440 * seconds)
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, np.stack([left, 0 * left], 1), rate, subtype)
    sound = audio.read(path)
    assert (sound.rate, sound.original_rate, sound.channels) == (16000, rate, 2)
    expected = 0.25 * 32768 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    # The filter needs some samples at either end.
    np.testing.assert_allclose(sound.wave[400:-400], expected[400:-400], atol=40)


def test_a_broken_file_is_named(tmp_path):
    pytest.importorskip("soundfile")
    path = tmp_path / "sound.wav"
    path.write_bytes(b"RIFFnothing")
    with pytest.raises(UserError, match=r"sound\.wav cannot be read"):
        audio.read(path)


@pytest.mark.parametrize("rate", [1, 2_000_000_000])
def test_an_impossible_rate_is_refused(tmp_path, rate):
    """A change of that rate would ask for gigabytes."""
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.zeros(1000), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="samples per second, expected 1,000 to"):
        audio.read(path)


def test_more_samples_than_bytes_are_refused(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "sound.flac"
    soundfile.write(path, np.zeros(1000), 16_000)
    content = bytearray(path.read_bytes())
    content[21] |= 15  # the highest of the 36 bits of their number
    path.write_bytes(content)
    with pytest.raises(UserError, match="declares 64,424,510,440 samples, expected at"):
        audio.read(path)
