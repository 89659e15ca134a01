"""Drawn talking heads and their forgeries, the embedded set of CMDFD.

See ``jaxkd.drawing.talking_heads``. They are drawn once and kept in the cache folder.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Items, Range
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.drawing import talking_heads
from jaxkd.drawing.talking_heads import KINDS, Noise
from jaxkd.readers import audio, video

CLASSES = ("real", "fake")
TRAIN, TEST = range(2)  # folded into the seed, so never renumber
VERSION = 1  # of the law; part of the cached files' names


class ClipSource(ArraySource):
    """Clips in memory.

    Attributes:
      kind_names: of the field ``kind``.
    """

    kind_names: tuple[str, ...] = KINDS


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
    noise = Noise(sound_noise, pixel_noise)
    counts = {TRAIN: chosen, TEST: dict.fromkeys(test_kinds, test)}
    sources = {
        split: ClipSource(
            _cached(folder, (seed, split), own, frames, size, noise, tuple(artefact))
        )
        for split, own in counts.items()
    }
    info = Info("talking heads", 2, (frames, size, size), (0.0,), (1.0,), CLASSES)
    return Dataset(info, lambda seed: sources[TRAIN], sources[TEST])


def draw_many(
    seed: tuple[int, int],
    counts: Mapping[str, int],
    frames: int,
    size: int,
    noise: Noise,
    artefact: Sequence[str] = ("faceswap",),
) -> dict[str, np.ndarray]:
    """Draws clips; clip ``i`` of a kind does not depend on how many there are."""
    from tqdm import tqdm

    plan = [(kind, i) for kind, count in counts.items() for i in range(count)]
    rows: dict[str, list[np.ndarray]] = {}
    for kind, i in tqdm(plan, "drawing talking heads", unit="clip", disable=None):
        number = KINDS.index(kind)
        head = talking_heads.draw(
            (*seed, number, i),
            kind,
            frames=frames,
            size=size,
            noise=noise,
            artefact=kind in artefact,
        )
        row = {
            "video": video.grey(head.video),
            "mfcc": audio.mfcc(head.wave, rows=4 * frames),
            "present": np.ones(frames, bool),
            "units": head.sounds.astype(np.int32),
            "label": np.asarray(kind != "real", np.int32),
            "kind": np.asarray(number, np.int32),
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in rows.items()}


def _cached(folder: Path, seed, counts, frames, size, noise, artefact):
    """Reads the clips of a split, or draws and keeps them."""
    kinds = "_".join(f"{kind}{count}" for kind, count in counts.items())
    blurred = "_".join(sorted(artefact)) or "none"
    name = f"v{VERSION}-{seed[0]}-{seed[1]}-{kinds}-{frames}-{size}-{blurred}"
    path = folder / f"{name}-{noise.sound:g}-{noise.pixels:g}.npz"
    try:
        with path.open("rb") as file, np.load(file) as content:
            return dict(content)
    except FileNotFoundError:
        pass
    except Exception:  # a damaged file is drawn again
        path.unlink(missing_ok=True)
    arrays = draw_many(seed, counts, frames, size, noise, artefact)
    folder.mkdir(parents=True, exist_ok=True)
    # Complete or not there: another process may draw the same clips.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with part.open("wb") as output:
        np.savez(output, **arrays)  # type: ignore[arg-type]
    part.replace(path)
    return arrays
