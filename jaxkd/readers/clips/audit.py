"""Audits labelled clips: can trivial properties tell fakes from real ones?

Fakes of FakeAVCeleb and AV-Deepfake1M begin with a short silence by which nearly all
of them are known (arXiv:2412.00175); MakeItTalk's are twice as long as real clips.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.metrics.classification import auc
from jaxkd.readers import audio, clips
from jaxkd.readers.clips import lists as clip_lists

WARN_ABOVE = 0.8
# Fewer fakes of a kind than this tell nothing about it.
ENOUGH = 10
PROPERTIES = ("leading silence", "duration", "loudness", "bit rate")


def measure(
    row: clip_lists.Row, options: clips.Preprocessing
) -> tuple[float, ...] | None:
    """Returns a clip's ``PROPERTIES``: s, s, RMS, bytes per second; None if unread."""
    clip = clips.load(row.video, options, sound=row.audio)
    if not len(clip.video):
        return None
    silence = 0.0 if options.trim_leading_silence else clip.leading_silence
    seconds = len(clip.video) / audio.FPS
    size = row.video.stat().st_size
    return silence, seconds, audio.level(clip.wave), size / max(clip.seconds, 1e-9)


def audit(root: Path, options: clips.Preprocessing) -> tuple[str, list[str]]:
    """Measures every property's AUC, over all fakes and for each kind of ten or more.

    Args:
      root: see ``clip_lists.read``.
      options: for reading.

    Returns:
      A table for the terminal, and the properties that betray fakes: those of which
      AUC or 1 - AUC is above 0.8.

    Raises:
      UserError: if there are no clips, or not both real and fake ones.
    """
    rows = clip_lists.read(root)
    measured = [(row, measure(row, options)) for row in rows]
    good = [(row, values) for row, values in measured if values is not None]
    fakes = np.array([row.fake for row, _ in good], bool)
    if not len(good) or fakes.all() or not fakes.any():
        raise UserError(
            f"{root}: {int(fakes.sum())} fakes and {int((~fakes).sum())} real clips "
            "could be read, expected some of both."
        )
    values = np.array([values for _, values in good])
    kinds = np.array([row.kind for row, _ in good])
    found = {"all": table(values, fakes)} | {
        kind: table(values[~fakes | (kinds == kind)], fakes[~fakes | (kinds == kind)])
        for kind in sorted(set(kinds[fakes]))
        if np.sum(kinds == kind) >= ENOUGH
    }
    leaks = [
        f"{name} ({kind}): {score:.3f}"
        for kind, scores in found.items()
        for name, score in zip(PROPERTIES, scores, strict=True)
        if score > WARN_ABOVE
    ]
    unread = [row.name for row, got in measured if got is None]
    return _text(found, leaks, unread, len(good)), leaks


def table(values: np.ndarray, fakes: np.ndarray) -> list[float]:
    """Returns the larger of AUC and 1 - AUC for each column."""
    scores = [auc(column, fakes) for column in values.T]
    return [max(score, 1 - score) for score in scores]


def _text(found, leaks: Sequence[str], unread: Sequence[str], count: int) -> str:
    width = max(map(len, found))
    lines = [" " * width + "".join(f"  {name:>15}" for name in PROPERTIES)]
    for kind, scores in found.items():
        lines.append(f"{kind:<{width}}" + "".join(f"  {s:>15.3f}" for s in scores))
    lines.append(
        f"{count} clips; AUC or 1 - AUC, whichever is larger; 0.5 tells nothing."
    )
    if unread:
        lines.append(f"{len(unread)} could not be read: {', '.join(unread[:10])}")
    if leaks:
        lines.append(
            f"WARNING: above {WARN_ABOVE}: {'; '.join(leaks)}. A detector can learn "
            "this instead of the forgery; try --trim-leading-silence, and clips of "
            "like length."
        )
    return "\n".join(lines)
