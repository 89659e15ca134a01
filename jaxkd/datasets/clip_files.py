"""Clips in files as a source of examples; what networks take of them is kept on disk.

The data set is ``jaxkd.datasets.av_clips``.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.core.source import Example
from jaxkd.readers import clips
from jaxkd.readers.audio import FPS, ROWS_PER_FRAME
from jaxkd.readers.clips.lists import Row

VERSION = 2  # of the preprocessing; part of the cached files' names
POSTERIORS = ("audio_posteriors", "video_posteriors")


class ClipFiles:
    """Clips that are read when they are asked for.

    Attributes:
      rows: the clips; some more than once, where classes are balanced.
      kind_names: of the field ``kind``.
      buckets: which clips share batches, ``[clips]``, see ``datasets.buckets``; None:
        any do.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        kind_names: Sequence[str],
        reader: "Reader",
        buckets: np.ndarray | None = None,
    ):
        self.rows, self.kind_names = list(rows), tuple(kind_names)
        self.reader, self.buckets = reader, buckets

    @property
    def kinds(self) -> np.ndarray:
        """The kind of every clip, ``[clips]``."""
        return np.array([self.kind_names.index(row.kind) for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        kind = np.asarray(self.kind_names.index(row.kind), np.int32)
        label = np.asarray(row.fake, np.int32)
        return self.reader(row) | {"label": label, "kind": kind}

    def wave(self, index: int) -> np.ndarray:
        """Reads the sound that an example's ``mfcc`` are of; see ``Reader.wave``."""
        return self.reader.wave(self.rows[index])


class Reader:
    """Reads clips, or takes what is kept of them on disk.

    Attributes:
      options: of preprocessing.
      posteriors: whether posteriors of recognisers lie beside the clips.
    """

    def __init__(
        self, options: clips.Preprocessing, posteriors: bool, cache: str | None
    ):
        self.options, self.posteriors = options, posteriors
        self.folder = (
            Path(cache).expanduser() if cache else files.user_cache("av_clips")
        )

    def __call__(self, row: Row) -> Example:
        """Returns ``video`` and ``mfcc``, and posteriors where there are.

        Raises:
          UserError: if the clip cannot be used.
        """
        example = self._features(row)
        first, total = example.pop("span").tolist()
        if self.posteriors:
            frames = len(example["video"])
            example |= read_posteriors(row.video, frames, first, total)
        return example

    def frames(self, row: Row) -> int:
        """Returns the length of a clip; of those that are kept, without its pictures.

        Raises:
          UserError: if the clip cannot be used.
        """
        try:
            with self._place(row).open("rb") as file, np.load(file) as content:
                return len(content["mfcc"]) // ROWS_PER_FRAME
        except Exception:  # missing or damaged: it is made below
            pass
        return len(self._features(row)["video"])

    def wave(self, row: Row) -> np.ndarray:
        """Reads a clip's sound: float32 ``[samples]``, 16 kHz, as long as its film.

        Raises:
          UserError: if the clip cannot be used.
        """
        return self._load(row).wave

    def _load(self, row: Row) -> clips.Clip:
        clip = clips.load(row.video, self.options, sound=row.audio)
        if not clip.usable:
            raise UserError(
                f"{row.video} cannot be used ({clip.status}): {'; '.join(clip.notes)}. "
                "Take it off the list, or set config.data.skip_bad = True."
            )
        return clip

    def _features(self, row: Row) -> Example:
        path = self._place(row)
        try:
            with path.open("rb") as file, np.load(file) as content:
                return dict(content)
        except FileNotFoundError:
            pass
        except Exception:  # a damaged file is made again
            path.unlink(missing_ok=True)
        clip = self._load(row)
        made = clips.features(clip, "video", "mfcc")
        # Which frames of the film these are, and how many it has.
        made["span"] = np.array([clip.skipped, round(clip.seconds * FPS)])
        self.folder.mkdir(parents=True, exist_ok=True)
        # Complete or not there: several threads and processes may make it.
        part = path.with_name(f"{path.stem}.{os.getpid()}.{id(made)}.part")
        with part.open("wb") as output:
            np.savez(output, **made)  # type: ignore[arg-type]
        part.replace(path)
        return made

    def _place(self, row: Row) -> Path:
        """Names the kept file by all that its content depends on."""
        parts: list[object] = [VERSION, self.options]
        # Sound that lies beside a film may be taken, too.
        others = [row.audio] if row.audio else clips.sounds_beside(row.video)
        for path in (row.video, *others):
            if path is not None and path.exists():
                stat = path.stat()
                parts += [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        return self.folder / f"{digest}.npz"


def read_posteriors(
    path: Path, frames: int, first: int = 0, total: int | None = None
) -> Example:
    """Reads the posteriors of two recognisers that lie beside a clip.

    Args:
      path: of the film; ``<stem>.posteriors.npz`` is read.
      frames: that are used; posteriors up to three shorter repeat their last row.
      first: of these frames, where leading silence was cut; posteriors are of the whole
        film.
      total: frames of the film, which posteriors of lips may exceed by three; None does
        not check.

    Raises:
      UserError: if they are missing, of other lengths or no probabilities.
    """
    beside = path.with_name(f"{path.stem}{clips.POSTERIORS}")
    try:
        with np.load(beside, allow_pickle=False) as held:
            found = [np.asarray(held[name], np.float32) for name in ("audio", "video")]
    except Exception as error:  # missing, damaged, or without the names
        raise UserError(
            f"{beside} cannot be read: {error}. Expected an npz file with audio and "
            "video [time, classes]."
        ) from error
    one, other = (array.shape for array in found)
    sums = [array.sum(-1) for array in found]
    fits = len(one) == len(other) == 2 and one[1] == other[1] and one[1] > 1
    if not fits or any(np.abs(s - 1).max(initial=0) > 0.02 for s in sums):
        raise UserError(
            f"{beside} holds audio {one} and video {other}, expected probabilities "
            "[time, classes] of the same classes, which add up to 1."
        )
    needed = first + frames
    if min(one[0], other[0]) < needed - 3 or (total and other[0] > total + 3):
        raise UserError(
            f"{beside} has {one[0]} and {other[0]} rows, expected {total or needed}: "
            "one for each frame at 25 a second."
        )
    index = first + np.arange(frames)
    return {
        name: array[np.minimum(index, len(array) - 1)]
        for name, array in zip(POSTERIORS, found, strict=True)
    }
