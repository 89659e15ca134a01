"""Draws talking heads: speech of ten sounds, lips that move with it, and forgeries.

A speech plan gives formants and loudness to a synthesiser, and opening, width and
teeth to a mouth. Everything follows from a seed. Forgeries break what a cross-modal
detector is to find, one thing each:

- ``faceswap``: the lower face slightly blurred; sound and lips agree;
- ``lipsync``: every sound has another sound's lips: boundaries and loudness stay in
  step, the content is wrong;
- ``shift``: the lips run 4 to 8 frames early or late;
- ``swap``: the lips of another utterance;
- ``envelope``: the mouth opens with the loudness alone.

    python -m jaxkd.drawing.talking_heads FOLDER

writes a few as mp4 files with sound, in ``real/`` and ``fake/<kind>/``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

FPS, RATE = 25, 16_000
KINDS = ("real", "faceswap", "lipsync", "shift", "swap", "envelope")

SOUNDS = tuple("aeioumpsfl")
# Formants in Hz, whether voiced, loudness; opening, width and teeth of the lips. The
# lips of m and p are the same.
_TABLE = np.array(
    [
        [730, 1090, 2440, 1, 1.00, 1.00, 0.60, 0.0],
        [530, 1840, 2480, 1, 0.90, 0.55, 0.85, 0.4],
        [270, 2290, 3010, 1, 0.80, 0.25, 1.00, 0.7],
        [570, 840, 2410, 1, 0.95, 0.70, 0.30, 0.0],
        [300, 870, 2240, 1, 0.80, 0.30, 0.10, 0.0],
        [250, 1100, 2200, 1, 0.45, 0.00, 0.50, 0.0],
        [500, 1500, 2500, 0, 0.12, 0.00, 0.50, 0.0],
        [3800, 5200, 6500, 0, 0.35, 0.12, 0.80, 1.0],
        [1400, 2900, 4300, 0, 0.25, 0.06, 0.55, 0.9],
        [360, 1300, 2700, 1, 0.65, 0.40, 0.60, 0.3],
    ]
)
_ACOUSTIC, _LIPS = slice(0, 5), slice(5, 8)
_LOUDNESS = 4
_COARTICULATION = 0.8  # frames
_CONTROL = 4  # acoustic values per frame


class TalkingHead(NamedTuple):
    """A drawn clip.

    Attributes:
      video: RGB uint8 ``[time, size, size, 3]``, 25 frames a second.
      wave: int16 ``[samples]``, 16 kHz, as long as the film.
      sounds: index into ``SOUNDS`` of what is said in each frame, ``[time]``.
      lips: likewise, of what the lips say; -1 where they say nothing in particular.
      kind: one of ``KINDS``.
    """

    video: np.ndarray
    wave: np.ndarray
    sounds: np.ndarray
    lips: np.ndarray
    kind: str


class Noise(NamedTuple):
    """Disturbances, by which recognisers are kept from being perfect.

    Attributes:
      sound: standard deviation, a fraction of the signal's RMS.
      pixels: standard deviation, in grey levels.
    """

    sound: float = 0.01
    pixels: float = 3.0


def draw(
    seed: int | Sequence[int],
    kind: str = "real",
    *,
    frames: int = 40,
    size: int = 24,
    artefact: bool | None = None,
    noise: Noise | None = None,
) -> TalkingHead:
    """Draws one clip.

    Args:
      seed: of everything in it. The same seed says the same with the same face,
        whatever the kind.
      kind: one of ``KINDS``.
      frames: length.
      size: of the image, in pixels.
      artefact: whether the lower face is blurred; None: only of ``faceswap``.
      noise: None for a little.

    Raises:
      ValueError: for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}.")
    noise = noise or Noise()
    words, face, voice, forge, grain = (
        np.random.default_rng([*np.atleast_1d(seed), part]) for part in range(5)
    )
    sounds = _plan(words, frames)
    spoken = _smooth(np.eye(len(SOUNDS))[sounds]) @ _TABLE
    seen, lips = _forge(forge, kind, sounds, spoken)
    if artefact is None:
        artefact = kind == "faceswap"
    video = _render(face, seen, size, artefact)
    video = video + noise.pixels * grain.normal(size=(*video.shape[:3], 1))
    wave = _synthesize(voice, sounds, frames)
    wave = wave + noise.sound * wave.std() * voice.normal(size=wave.shape)
    wave *= 0.25 * 32767 / max(np.abs(wave).max(), 1e-9) * face.uniform(0.5, 1.5)
    return TalkingHead(
        np.clip(np.rint(video), 0, 255).astype(np.uint8),
        np.clip(np.rint(wave), -32768, 32767).astype(np.int16),
        sounds,
        lips,
        kind,
    )


def _plan(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Strings sounds of 3 to 6 frames together, none twice in a row."""
    said: list[int] = []
    last = -1
    while len(said) < frames:
        last = int(rng.choice([s for s in range(len(SOUNDS)) if s != last]))
        said += [last] * int(rng.integers(3, 7))
    return np.array(said[:frames])


def _smooth(x: np.ndarray, sigma: float = _COARTICULATION) -> np.ndarray:
    """Blurs ``[time, ...]`` along time; the ends are repeated."""
    reach = int(np.ceil(4 * sigma))
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.concatenate([x[:1].repeat(reach, 0), x, x[-1:].repeat(reach, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(window), axis=0)
    return windows @ (window / window.sum())


def _forge(
    rng: np.random.Generator, kind: str, sounds: np.ndarray, spoken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lips' parameters ``[time, 3]`` and which sounds they show."""
    frames = len(sounds)
    lips = sounds
    if kind == "lipsync":
        lips = _derange(rng)[sounds]
    elif kind == "shift":
        by = int(rng.choice([-1, 1]) * rng.integers(4, 9))
        lips = np.roll(sounds, by)
    elif kind == "swap":
        lips = _plan(rng, frames)
    elif kind == "envelope":
        seen = np.zeros((frames, 3))
        seen[:, 0], seen[:, 1] = 0.9 * spoken[:, _LOUDNESS], 0.55
        return seen, np.full(frames, -1)
    return (_smooth(np.eye(len(SOUNDS))[lips]) @ _TABLE)[:, _LIPS], lips


def _derange(rng: np.random.Generator) -> np.ndarray:
    """Draws a permutation that gives no sound lips like its own."""
    while True:
        order = rng.permutation(len(SOUNDS))
        if (np.abs(_TABLE[order, _LIPS] - _TABLE[:, _LIPS]).max(1) > 0.2).all():
            return order


def _synthesize(
    rng: np.random.Generator, sounds: np.ndarray, frames: int
) -> np.ndarray:
    """Sums harmonics under the formants, and noise around those of unvoiced sounds."""
    fine = np.repeat(sounds, _CONTROL)
    control = _smooth(np.eye(len(SOUNDS))[fine], _COARTICULATION * _CONTROL) @ _TABLE
    control = control[:, _ACOUSTIC]
    count = frames * RATE // FPS
    at = np.arange(count) * _CONTROL * FPS / RATE - 0.5
    ticks = np.arange(len(fine))

    def spread(values: np.ndarray) -> np.ndarray:
        return np.interp(at, ticks, values)

    formants = control[:, :3] * rng.uniform(0.87, 1.15)
    voiced, loud = control[:, 3], control[:, 4]
    seconds = np.arange(count) / RATE
    vibrato = 1 + 0.03 * np.sin(
        2 * np.pi * (rng.uniform(2, 5) * seconds + rng.random())
    )
    base = rng.uniform(90, 220)
    phase = 2 * np.pi * np.cumsum(base * vibrato) / RATE
    wave = np.zeros(count)
    for harmonic in range(1, int(4000 / base)):
        gain = _resonance(harmonic * base, formants) / harmonic**0.5
        wave += spread(gain * voiced * loud) * np.sin(harmonic * phase)
    for formant in formants.T:
        carrier = np.sin(2 * np.pi * np.cumsum(spread(formant)) / RATE)
        knots = rng.normal(size=count // 16 + 2)
        hiss = np.interp(np.arange(count) / 16, np.arange(len(knots)), knots)
        wave += spread(1.5 * (1 - voiced) * loud) * hiss * carrier
    return wave


def _resonance(frequency: float, formants: np.ndarray) -> np.ndarray:
    """Returns the gain at a frequency, ``[ticks]``, of three resonances."""
    widths = np.array([90.0, 110.0, 160.0])
    weights = np.array([1.0, 0.7, 0.4])
    return (weights / (1 + ((frequency - formants) / widths) ** 2)).sum(1)


def _render(
    rng: np.random.Generator, seen: np.ndarray, size: int, artefact: bool
) -> np.ndarray:
    """Draws the head of every frame, RGB float ``[time, size, size, 3]``."""
    frames = len(seen)
    skin = rng.uniform(120, 215) * np.array([1.0, 0.85, 0.75])
    back = rng.uniform(20, 110) * np.array([1.0, 1.0, 1.0])
    head, eyes = rng.uniform(0.78, 0.92), rng.uniform(0.26, 0.36)
    drift = _smooth(rng.normal(size=(frames, 2)), 6) * 0.15
    gain = 1 + _smooth(rng.normal(size=frames), 8) * 0.1
    line = (np.arange(size) + 0.5) / size * 2 - 1
    across = line[None, None] - drift[:, 0, None, None]
    down = line[None, :, None] - drift[:, 1, None, None]

    def ellipse(x, y, wide, high):
        """Covers pixels inside by 1, with an edge as soft as a pixel."""
        wide, high = (np.maximum(np.asarray(v), 1e-3) for v in (wide, high))
        r = np.sqrt(((across - x) / wide) ** 2 + ((down - y) / high) ** 2)
        inner = np.minimum(wide, high)
        return np.clip((1 - r) * inner * size / 2 + 0.5, 0, 1)[..., None]

    opening, width, teeth = (seen[:, i, None, None] for i in range(3))
    image = np.broadcast_to(back, (frames, size, size, 3))

    def paint(image, cover, colour):
        return image * (1 - cover) + cover * colour

    image = paint(image, ellipse(0, 0, 0.8 * head, head), skin)
    for side in (-1, 1):
        image = paint(image, ellipse(side * eyes, -0.25, 0.11, 0.07), 35.0)
    wide, high = 0.16 + 0.28 * width, 0.02 + 0.26 * opening
    image = paint(
        image, ellipse(0, 0.42, wide + 0.1, high + 0.09), skin * [0.8, 0.5, 0.5]
    )
    hole = ellipse(0, 0.42, wide, high)
    image = paint(image, hole, 25.0)
    bar = np.clip((0.42 - down) * size / 2 + 0.5 + 0.35 * high * size / 2, 0, 1)
    image = paint(image, hole * (bar * teeth)[..., None], 235.0)
    if artefact:
        lower = np.clip((down - 0.05) * 6, 0, 1)[..., None] * 0.7
        image = paint(image, lower, _blur(image, max(size // 24, 1)))
    return image * gain[:, None, None, None]


def _blur(image: np.ndarray, reach: int) -> np.ndarray:
    """Averages windows of ``2 reach + 1`` pixels."""
    for axis in (1, 2):
        moved = [np.roll(image, step, axis) for step in range(-reach, reach + 1)]
        image = np.mean(moved, axis=0)
    return image


def write_demo(
    folder: Path, *, clips: int = 2, frames: int = 75, size: int = 112, seed: int = 0
) -> list[Path]:
    """Writes clips of every kind as mp4 with sound, into ``real/`` and ``fake/``.

    Args:
      folder: made if it is not there.
      clips: of each kind.
      frames: of a clip.
      size: in pixels, even.
      seed: of the first clip.

    Raises:
      UserError: if a number is impossible, or PyAV is not installed.
    """
    from jaxkd.core.errors import UserError
    from jaxkd.drawing import films

    if min(clips, frames, size) < 1 or size % 2:
        raise UserError(
            f"clips is {clips}, frames {frames} and size {size}, expected 1 or more of "
            "each, and an even size: films halve the resolution of colours."
        )
    written = []
    for number, kind in enumerate(KINDS):
        below = folder / ("real" if kind == "real" else f"fake/{kind}")
        below.mkdir(parents=True, exist_ok=True)
        for place in range(clips):
            # No two of them share words or face.
            head = draw((seed, number, place), kind, frames=frames, size=size)
            path = below / f"{place:03d}.mp4"
            films.write(path, head.video, head.wave)
            written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a demo as asked."""
    import argparse

    from jaxkd.core.errors import UserError

    parser = argparse.ArgumentParser(prog="python -m jaxkd.drawing.talking_heads")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=2, help="of each kind")
    parser.add_argument("--frames", type=int, default=75)
    parser.add_argument("--size", type=int, default=112, help="in pixels, even")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    try:
        written = write_demo(given.pop("folder"), **given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(written)} clips of {len(KINDS)} kinds in {written[0].parents[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
