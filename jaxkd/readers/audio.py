"""Reads sound, and computes the features of speech that CMDFD's networks take.

Samples have the range of int16, -32768 to 32767, as floats: MFCC depend on it. One
path for training and inference: mono by the mean of the channels, 16 kHz by a
polyphase filter, four rows of features for each video frame of 25 a second.
"""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import optional, parsing
from jaxkd.core.errors import UserError

RATE = 16_000
FPS = 25.0
ROWS_PER_FRAME = 4
FFT = 640
MEL_FILTERS, CEPSTRA, LIFTER = 26, 13, 22
FILLS = ("repeat", "wrap")
SUFFIXES = (".wav", ".flac")

# Samples per second that a file may have: a resampled signal has at most 16 for one.
RATES = (1_000, 768_000)
# Silence packs to nearly nothing: no more samples of all channels than these are taken
# from a file with less than a byte for each hundred.
SILENT_SAMPLES, SAMPLES_PER_BYTE = 1 << 26, 100
_FULL_SCALE = 32768.0
_REMEDY = "Convert it to wav or flac anew."


class Sound(NamedTuple):
    """A mono signal.

    Attributes:
      wave: float32 ``[samples]``, in the range of int16.
      rate: samples per second.
      start: seconds from the beginning of the file to the first sample.
      original_rate: of the file.
      channels: of the file.
      damaged: whether parts could not be decoded, of a film's track.
    """

    wave: np.ndarray
    rate: int
    start: float = 0.0
    original_rate: int = RATE
    channels: int = 1
    damaged: bool = False


def read(path: Path, rate: int = RATE) -> Sound:
    """Reads a wav or flac file: any sample format, any rate, mono by the mean.

    Args:
      path: of the file.
      rate: of the result.

    Raises:
      UserError: if the file cannot be read, has a rate outside ``RATES`` or more than
        ``SILENT_SAMPLES`` in too few bytes, or soundfile is not installed.
    """
    soundfile = optional.load("soundfile", extra="av", purpose="Sound files")
    parsing.require_file(path, _REMEDY)
    with parsing.parsing(path, "sound", _REMEDY):
        about = soundfile.info(str(path))
        limit = max(SILENT_SAMPLES, SAMPLES_PER_BYTE * path.stat().st_size)
        count = about.frames * about.channels
        parsing.check_declared(path, "samples", count, limit, _REMEDY)
        samples, original = soundfile.read(str(path), dtype="float32", always_2d=True)
    check_rate(path, original)
    mono = samples.mean(axis=1) * _FULL_SCALE
    return Sound(
        resample(mono, original, rate), rate, 0.0, int(original), samples.shape[1]
    )


def check_rate(path: Path, rate: float) -> None:
    """Checks the rate that a file declares.

    Raises:
      UserError: if it lies outside ``RATES``.
    """
    low, high = RATES
    if not low <= rate <= high:
        raise UserError(
            f"{path} declares {rate:,} samples per second, expected {low:,} to "
            f"{high:,}. {_REMEDY}"
        )


def resample(wave: np.ndarray, rate: float, to: float) -> np.ndarray:
    """Changes the rate of ``[samples]`` with a polyphase filter; float32."""
    from scipy.signal import resample_poly

    wave = np.asarray(wave, np.float32)
    rate, to = round(rate), round(to)
    if rate == to or not len(wave):
        return wave
    common = math.gcd(rate, to)
    return resample_poly(wave, to // common, rate // common).astype(np.float32)


def level(wave: np.ndarray) -> float:
    """Returns the RMS of samples as a fraction of full scale; 0 of none."""
    wave = np.asarray(wave, np.float64)
    return float(np.sqrt(np.mean(wave**2)) / _FULL_SCALE) if wave.size else 0.0


def leading_silence(
    wave: np.ndarray, *, rate: int = RATE, threshold: float = 1e-3
) -> float:
    """Measures how long a signal stays near zero at its beginning, in seconds.

    Args:
      wave: ``[samples]``, int16 range.
      rate: samples per second.
      threshold: of the RMS of 10 ms, a fraction of full scale (1e-3: -60 dB).

    Returns:
      Seconds, in steps of 10 ms; the whole length of a silent signal.
    """
    step = max(rate // 100, 1)
    count = len(wave) // step
    parts = np.asarray(wave[: count * step], np.float64).reshape(count, step)
    loud = np.sqrt(np.mean(parts**2, axis=1)) >= threshold * _FULL_SCALE
    return float((np.argmax(loud) if loud.any() else count) * step / rate)


def mfcc(
    wave: np.ndarray,
    *,
    rate: float = RATE,
    fps: float = FPS,
    rows: int | None = None,
    fill: str = "repeat",
) -> np.ndarray:
    """Computes 13 mel-frequency cepstral coefficients, 100 rows a second at 25 fps.

    As python_speech_features defines them, with CMDFD's windows: pre-emphasis 0.97;
    rectangular windows of 40 ms, 10 ms apart, the tail filled with zeros; the power
    of a 640-point FFT, over 640; 26 triangular mel filters from 0 to half the rate;
    the logarithm, zeros replaced by 2.2e-16; an orthonormal DCT-II; the lifter
    ``1 + 11 sin(pi n / 22)``; coefficient 0 is the logarithm of the power.

    Args:
      wave: ``[samples]``, int16 range. Other rates than 16 kHz are changed to it.
      rate: samples per second.
      fps: of the video; windows are 1/fps long and 1/(4 fps) apart. The FFT stays as
        it is, as in the official code: better, bring the video to 25.
      rows: length of the result, four for each video frame; None keeps all.
      fill: what extends a short signal: "repeat" its last row, or "wrap", start it
        again, as the official code does.

    Returns:
      float32 ``[rows, 13]``.

    Raises:
      UserError: for an empty signal or an unknown fill.
    """
    from scipy.fft import dct

    wave = _checked(wave, rate)
    wave = np.append(wave[0], wave[1:] - 0.97 * wave[:-1])
    size, step = (_round(seconds * 25 / fps * RATE) for seconds in (0.040, 0.010))
    count = 1 if len(wave) <= size else 1 + math.ceil((len(wave) - size) / step)
    wave = np.pad(wave, (0, max((count - 1) * step + size - len(wave), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(wave, size)[::step][:count]
    power = np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT
    bands = power @ mel_filters(RATE, FFT, MEL_FILTERS).T
    tiny = np.finfo(np.float64).eps
    bands, energy = (np.where(x == 0, tiny, x) for x in (bands, power.sum(1)))
    cepstra = dct(np.log(bands), type=2, axis=1, norm="ortho")[:, :CEPSTRA]
    cepstra = cepstra * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER))
    cepstra[:, 0] = np.log(energy)
    return fit_rows(cepstra, rows, fill).astype(np.float32)


def spectrogram(
    wave: np.ndarray,
    *,
    rate: float = RATE,
    fps: float = FPS,
    rows: int | None = None,
    fill: str = "repeat",
) -> np.ndarray:
    """Computes the magnitudes of short Fourier transforms, 100 rows a second at 25 fps.

    As deep_avsr's recogniser of speech takes them: the signal over its maximum and
    then over its RMS, periodic Hamming windows of 640 samples, 160 apart, neither
    centred nor padded, magnitudes over the sum of the window. The official code
    divides by zero for a silent signal; here its rows are zeros.

    Args:
      wave: ``[samples]``; other rates than 16 kHz are changed to it.
      rate: samples per second.
      fps: of the video, above 18.75; see ``mfcc``. Windows overlap by 480 samples at
        25, by more where there are fewer frames.
      rows: length of the result; None keeps all: 97 for a second.
      fill: see ``mfcc``.

    Returns:
      float32 ``[rows, 321]``.

    Raises:
      UserError: for an empty signal, too low a frame rate or an unknown fill.
    """
    from scipy.signal import get_window

    wave = _checked(wave, rate)
    # A step of zero or less would read the windows backwards.
    if not fps > 480 * 25 / FFT:
        raise UserError(
            f"fps is {fps:g}, expected more than {480 * 25 / FFT:g}: below, windows of "
            f"{FFT} samples would overlap whole. Bring the video to {FPS:g}."
        )
    peak = np.abs(wave).max()
    wave = wave / peak if peak else wave
    rms = np.sqrt(np.mean(wave**2))
    wave = wave / rms if rms else wave
    step = max(FFT - round(480 * 25 / fps), 1)
    wave = np.pad(wave, (0, max(FFT - len(wave), 0)))
    window = get_window("hamming", FFT)
    windows = np.lib.stride_tricks.sliding_window_view(wave, FFT)[::step]
    magnitude = np.abs(np.fft.rfft(windows * window, axis=1)) / window.sum()
    return fit_rows(magnitude, rows, fill).astype(np.float32)


def fit_rows(table: np.ndarray, rows: int | None, fill: str = "repeat") -> np.ndarray:
    """Cuts ``[n, columns]`` to ``rows``, or extends it; see ``mfcc``."""
    if fill not in FILLS:
        raise UserError(f"fill is {fill!r}, expected one of {', '.join(FILLS)}.")
    if rows is None or rows <= len(table):
        return table[:rows]
    index = np.arange(rows)
    index = index % len(table) if fill == "wrap" else np.minimum(index, len(table) - 1)
    return table[index]


@functools.cache
def mel_filters(rate: int, size: int, count: int) -> np.ndarray:
    """Returns triangular filters ``[count, size // 2 + 1]``, 0 to half the rate.

    Edges are equally far apart in ``2595 log10(1 + f / 700)`` and lie on the FFT's
    bins, rounded down.
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, count + 2) / 2595) - 1)
    bins = np.floor((size + 1) * edges / rate)
    place = np.arange(size // 2 + 1)[None]
    left, middle, right = (bins[i : i + count, None] for i in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.where(place < middle, (place - left) / (middle - left), 0)
        falling = np.where(place >= middle, (right - place) / (right - middle), 0)
    inside = (place >= left) & (place < right)
    return np.where(inside, rising + falling, 0.0)


def _checked(wave: np.ndarray, rate: float) -> np.ndarray:
    wave = np.asarray(wave, np.float64)
    if wave.ndim != 1 or not wave.size:
        raise UserError(
            f"The signal has shape {wave.shape}, expected [samples], at least one; "
            "average the channels of a stereo signal first."
        )
    if round(rate) != RATE:
        wave = resample(wave, rate, RATE).astype(np.float64)
    return wave


def _round(value: float) -> int:
    """Rounds halves up, after the noise of the last digits."""
    return math.floor(round(value, 6) + 0.5)
