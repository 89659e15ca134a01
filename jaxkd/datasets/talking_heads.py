"""Drawn talking heads and their forgeries, the embedded set of CMDFD.

See ``jaxkd.drawing.talking_heads``. They are drawn once and kept in the cache folder.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Items, Range
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.drawing import talking_heads
from jaxkd.drawing.talking_heads import KINDS, Noise, TalkingHead
from jaxkd.readers import audio, video

CLASSES = ("real", "fake")
TRAIN, TEST = range(2)  # folded into the seed, so never renumber
VERSION = 1  # of the law; part of the cached files' names


class Law(NamedTuple):
    """What clips are drawn by.

    Attributes:
      seed: of the set and of the split.
      frames: length of every clip.
      size: of its pictures, in pixels.
      noise: disturbances.
      artefact: kinds whose lower face is blurred.
    """

    seed: tuple[int, int]
    frames: int
    size: int
    noise: Noise
    artefact: tuple[str, ...] = ("faceswap",)


class ClipSource(ArraySource):
    """Clips in memory.

    Attributes:
      kind_names: of the field ``kind``.
    """

    kind_names: tuple[str, ...] = KINDS

    def __init__(
        self, arrays: Mapping[str, np.ndarray], redraw: Callable[[int], TalkingHead]
    ):
        """Holds arrays, and draws a clip again for what they do not hold."""
        super().__init__(arrays)
        self._redraw = redraw

    def wave(self, index: int) -> np.ndarray:
        """Returns the sound that an example's ``mfcc`` are of: int16 ``[samples]``."""
        return self._redraw(index).wave


def load(
    train: Annotated[Mapping[str, int] | None, Range()] = None,
    test: int = 40,
    frames: int = 40,
    size: int = 24,
    sound_noise: float = 0.1,
    pixel_noise: float = 8.0,
    artefact: Annotated[Sequence[str], Items(least=0)] = ("faceswap",),
    seed: int = 0,
    test_kinds: Sequence[str] = KINDS,
    cache: str | None = None,
) -> Dataset:
    """Draws the clips, or reads those that were drawn before.

    Examples hold ``video`` uint8 ``[time, size, size]``, ``mfcc`` float32
    ``[4 time, 13]``, ``present`` bool ``[time]`` (all), ``label`` (1: fake), ``kind``
    (index into ``KINDS``) and ``units`` int32 ``[time]``: what the sound says. Seeds of
    different sets do not overlap: recognisers and detectors never share a clip.

    Args:
      train: training clips of each kind; None: 100 real, 50 ``faceswap``, 50
        ``lipsync``.
      test: test clips of each kind.
      frames: length of every clip.
      size: of its pictures, in pixels.
      sound_noise: standard deviation, a fraction of the signal's.
      pixel_noise: standard deviation, in grey levels.
      artefact: kinds whose lower face is blurred in training, and in testing.
      seed: of everything.
      test_kinds: kinds to test on.
      cache: folder; by default ``jaxkd`` in the user's cache folder.

    Raises:
      UserError: for an unknown kind or an impossible number.
    """
    chosen = dict(train or {"real": 100, "faceswap": 50, "lipsync": 50})
    for kind in (*chosen, *test_kinds, *artefact):
        if kind not in KINDS:
            raise UserError(
                f"There is no kind {kind!r} of talking heads, expected some of "
                f"{', '.join(KINDS)}."
            )
    if min(*chosen.values(), test, frames, size) < 1:
        raise UserError(
            f"train is {chosen}, test {test}, frames {frames} and size {size}, "
            "expected whole numbers above 0."
        )
    folder = Path(cache).expanduser() if cache else files.user_cache("talking_heads")
    blurred = tuple(artefact)
    counts = {TRAIN: chosen, TEST: dict.fromkeys(test_kinds, test)}

    def source(split: int) -> ClipSource:
        law = Law((seed, split), frames, size, Noise(sound_noise, pixel_noise), blurred)
        plan = _plan(counts[split])
        arrays = _cached(folder, law, counts[split])
        return ClipSource(arrays, lambda index: draw_one(law, *plan[index]))

    sources = {split: source(split) for split in counts}
    info = Info("talking heads", 2, (frames, size, size), (0.0,), (1.0,), CLASSES)
    return Dataset(info, lambda seed: sources[TRAIN], sources[TEST])


def draw_one(law: Law, kind: str, number: int) -> TalkingHead:
    """Draws clip ``number`` of a kind, which does not depend on how many there are."""
    return talking_heads.draw(
        (*law.seed, KINDS.index(kind), number),
        kind,
        frames=law.frames,
        size=law.size,
        noise=law.noise,
        artefact=kind in law.artefact,
    )


def draw_many(law: Law, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Draws as many clips of each kind as ``counts`` has."""
    from tqdm import tqdm

    rows: dict[str, list[np.ndarray]] = {}
    drawing = tqdm(_plan(counts), "drawing talking heads", unit="clip", disable=None)
    for kind, number in drawing:
        head = draw_one(law, kind, number)
        row = {
            "video": video.grey(head.video),
            "mfcc": audio.mfcc(head.wave, rows=4 * law.frames),
            "present": np.ones(law.frames, bool),
            "units": head.sounds.astype(np.int32),
            "label": np.asarray(kind != "real", np.int32),
            "kind": np.asarray(KINDS.index(kind), np.int32),
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in rows.items()}


def _plan(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Lists kind and number of the clips, in their order."""
    return [(kind, number) for kind, count in counts.items() for number in range(count)]


def _cached(folder: Path, law: Law, counts: Mapping[str, int]):
    """Reads the clips of a split, or draws and keeps them."""
    kinds = "_".join(f"{kind}{count}" for kind, count in counts.items())
    blurred = "_".join(sorted(law.artefact)) or "none"
    seeds = f"{law.seed[0]}-{law.seed[1]}"
    name = f"v{VERSION}-{seeds}-{kinds}-{law.frames}-{law.size}-{blurred}"
    path = folder / f"{name}-{law.noise.sound:g}-{law.noise.pixels:g}.npz"
    try:
        with path.open("rb") as file, np.load(file) as content:
            return dict(content)
    except FileNotFoundError:
        pass
    except Exception:  # a damaged file is drawn again
        path.unlink(missing_ok=True)
    arrays = draw_many(law, counts)
    folder.mkdir(parents=True, exist_ok=True)
    # Complete or not there: another process may draw the same clips.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with part.open("wb") as output:
        np.savez(output, **arrays)  # type: ignore[arg-type]
    part.replace(path)
    return arrays
