"""Talking-face clips of your own, real and forged.

Which there are is told by csv files in the official columns, or by folders ``real/``
and ``fake/<kind>/``; see ``jaxkd.readers.clips.lists``. ``python -m jaxkd.readers.clips
audit`` shows whether trivial properties betray the fakes; do that first.

What networks take of a clip is computed once and kept in the cache folder. Clips are
padded to one length, with a mask; of longer ones training takes a random window. With
``buckets`` there are several lengths, and a training batch is of one of them, so that
short clips cost less.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
from tqdm import tqdm

from jaxkd.core.errors import UserError
from jaxkd.core.ranges import POSITIVE
from jaxkd.core.source import Dataset, Example, Info
from jaxkd.datasets import buckets as bucketing
from jaxkd.datasets.clip_files import POSTERIORS, ClipFiles, Reader, read_posteriors
from jaxkd.datasets.talking_heads import CLASSES
from jaxkd.readers import clips
from jaxkd.readers.audio import CEPSTRA, ROWS_PER_FRAME
from jaxkd.readers.clips import lists as clip_lists
from jaxkd.readers.clips.lists import REAL, Row


def load(
    root: str,
    base: str = "",
    frames: int = 150,
    buckets: Annotated[Sequence[int], POSITIVE] = (),
    size: int = 112,
    balanced: bool = True,
    posteriors: bool = False,
    test_share: float = 0.2,
    evaluate_on: str = "test",
    crop: str = "centre",
    face_model: str = "",
    min_frames: int = 5,
    allow_silent: bool = False,
    trim_leading_silence: bool = False,
    skip_bad: bool = False,
    cache: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Lists the clips; each is read when it is first needed, and then kept.

    Examples hold ``video`` uint8 ``[frames, size, size]``, ``mfcc`` float32
    ``[4 frames, 13]``, ``present`` bool ``[frames]``, ``label`` (1: fake), ``kind``,
    and with ``posteriors`` those of two recognisers, ``[frames, classes]``. In a
    training batch of a shorter bucket ``frames`` is that bucket's length.

    Args:
      root: see ``clip_lists.read``.
      base: folder that relative paths of csv files begin at; that of the file if empty.
      frames: length that clips are padded or cut to, at 25 a second.
      buckets: shorter lengths, such as ``(50, 100)``. A training clip is padded to the
        shortest of these and ``frames`` that holds it, and batches are of one length
        each; the step is compiled once for every length. All training clips are read
        before the first step, since their lengths must be known. Test clips are padded
        to ``frames``. Empty: one length for all.
      size: of the pictures.
      balanced: whether training sees as many real clips as fakes; the rarer ones are
        repeated.
      posteriors: whether ``<clip>.posteriors.npz`` lies beside each clip, with
        ``audio`` and ``video`` ``[time, classes]``, probabilities at 25 a second.
      test_share: of the clips, where the list names no split; clips whose names share
        what comes before the last ``-`` (the face, officially) stay together.
      evaluate_on: "test" or "val", a split of the list.
      crop: see ``clips.Preprocessing``.
      face_model: likewise.
      min_frames: likewise.
      allow_silent: likewise.
      trim_leading_silence: likewise.
      skip_bad: read all clips first, and leave out those that cannot be used, with a
        line each. Otherwise the first of them ends the run.
      cache: folder of what is kept; by default ``jaxkd`` in the user's cache folder.
      seed: of the split.

    Raises:
      UserError: if the list, a split or an option is wrong, or a file is not there.
    """
    options = clips.Preprocessing(
        crop=crop,
        face_model=face_model,
        size=size,
        min_frames=min_frames,
        allow_silent=allow_silent,
        trim_leading_silence=trim_leading_silence,
    )
    lengths = bucketing.check_lengths(buckets, frames)
    reader = Reader(options, posteriors, cache)
    rows = clip_lists.read(Path(root), Path(base).expanduser() if base else None)
    if skip_bad:
        rows = _usable(rows, reader)
    else:
        _check_files(rows, root)
    rows = _split(rows, test_share, seed)
    fakes = sorted({row.kind for row in rows} - {REAL})
    names = (REAL, *fakes)
    train, test = (
        [row for row in rows if row.split == split] for split in ("train", evaluate_on)
    )
    # Of a test with one class the evaluator says what is not defined.
    for split, own, least in (("train", train, 2), (evaluate_on, test, 1)):
        if len({row.fake for row in own}) < least:
            raise UserError(
                f"{root}: split {split!r} has {sum(r.fake for r in own)} fakes of "
                f"{len(own)} clips, expected real and forged ones."
            )
    _warn_of_shared(train, test)
    if balanced:
        train = _balance(train)
    sources = [
        ClipFiles(train, names, reader, _buckets(train, reader, lengths)),
        ClipFiles(test, names, reader),
    ]
    classes = _classes(train[0]) if posteriors else 0
    info, fields = describe_examples(Path(root).stem or "clips", frames, size, classes)
    return Dataset(
        info,
        lambda seed: sources[0],
        sources[1],
        prepare_train=lambda example, rng: fit(
            example, bucketing.length_for(len(example["video"]), lengths), rng
        ),
        prepare_test=lambda example: fit(example, frames),
        fields=fields,
    )


def fit(
    example: Example, frames: int, rng: np.random.Generator | None = None
) -> Example:
    """Pads an example to ``frames`` with zeros, or cuts a window out of it.

    Args:
      example: of the source.
      frames: length of the result.
      rng: chooses the window; None takes the first.
    """
    length = len(example["video"])
    first = int(rng.integers(max(length - frames, 0) + 1)) if rng is not None else 0
    kept = min(length - first, frames)
    result = dict(example)
    for name, factor in (
        ("video", 1),
        ("mfcc", ROWS_PER_FRAME),
        *[(p, 1) for p in POSTERIORS],
    ):
        if name in example:
            part = example[name][factor * first : factor * (first + kept)]
            pad = [(0, factor * (frames - kept))] + [(0, 0)] * (part.ndim - 1)
            result[name] = np.pad(part, pad)
    result["present"] = np.arange(frames) < kept
    return result


def _classes(row: Row) -> int:
    return read_posteriors(row.video, 0)[POSTERIORS[0]].shape[-1]


def describe_examples(
    title: str, frames: int, size: int, classes: int = 0
) -> tuple[Info, dict[str, jax.ShapeDtypeStruct]]:
    """Returns what a set of clips is like, and the fields of an example.

    Args:
      title: of the set.
      frames: of a clip.
      size: of its pictures.
      classes: of posteriors; 0 without any.
    """
    info = Info(title, 2, (frames, size, size), (0.0,), (1.0,), CLASSES)
    fields = {
        "video": jax.ShapeDtypeStruct((frames, size, size), np.uint8),
        "mfcc": jax.ShapeDtypeStruct((ROWS_PER_FRAME * frames, CEPSTRA), np.float32),
        "present": jax.ShapeDtypeStruct((frames,), np.bool_),
        "label": jax.ShapeDtypeStruct((), np.int32),
        "kind": jax.ShapeDtypeStruct((), np.int32),
    }
    if classes:
        shape = (frames, classes)
        fields |= {name: jax.ShapeDtypeStruct(shape, np.float32) for name in POSTERIORS}
    return info, fields


def _buckets(
    rows: Sequence[Row], reader: Reader, lengths: Sequence[int]
) -> np.ndarray | None:
    """Returns the bucket of each clip, reading all of them; None if there is one."""
    if len(lengths) == 1:
        return None
    frames: dict[tuple, int] = {}
    for row in tqdm(rows, "reading the lengths of clips", unit="clip", disable=None):
        # Where classes are balanced, a clip is there several times.
        if (row.video, row.audio) not in frames:
            frames[row.video, row.audio] = reader.frames(row)
    return np.array(
        [
            lengths.index(bucketing.length_for(frames[row.video, row.audio], lengths))
            for row in rows
        ]
    )


def _usable(rows: Sequence[Row], reader: Reader) -> list[Row]:
    good = []
    for row in rows:
        try:
            reader(row)
            good.append(row)
        except UserError as error:
            print(f"left out {row.name}: {error}", file=sys.stderr)
    if not good:
        raise UserError(f"None of the {len(rows)} clips can be used.")
    return good


def _check_files(rows: Sequence[Row], root: str) -> None:
    named = [path for row in rows for path in (row.video, row.audio) if path]
    missing = [path for path in named if not path.is_file()]
    if missing:
        raise UserError(
            f"{root} names {len(missing)} files that are not there, such as "
            f"{missing[0]}. Set config.data.base to the folder that relative paths "
            "begin at, or config.data.skip_bad = True to leave these clips out."
        )


def _warn_of_shared(train: Sequence[Row], test: Sequence[Row]) -> None:
    own = {(row.video, row.audio) for row in train}
    both = [row for row in test if (row.video, row.audio) in own]
    if both:
        print(
            f"jaxkd: warning: {len(both)} clips are for training and for testing, "
            f"such as {both[0].video}.",
            file=sys.stderr,
        )


def _split(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Assigns clips without a split, those of one face to the same side."""
    groups = sorted({_face(row) for row in rows if not row.split})
    order = np.random.default_rng(seed).permutation(len(groups))
    held_out = {groups[i] for i in order[: round(share * len(groups))]}
    return [
        row
        if row.split
        else row._replace(split="test" if _face(row) in held_out else "train")
        for row in rows
    ]


def _face(row: Row) -> str:
    return row.video.stem.rpartition("-")[0] or row.video.stem


def _balance(rows: Sequence[Row]) -> list[Row]:
    """Repeats the clips of the rarer class until both are as frequent."""
    parts = [[row for row in rows if row.fake == fake] for fake in (0, 1)]
    most = max(map(len, parts))
    return [row for part in parts for row in (part * -(-most // len(part)))[:most]]
