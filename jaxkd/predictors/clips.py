"""Judges talking-face clips: one row for each input, always, with a reason.

A score is what a network holds for forged, with its mistakes: a reason to look closer
and no proof.
"""

import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxkd import losses
from jaxkd.core import files as whole_files
from jaxkd.core.errors import UserError
from jaxkd.predictors import clips_page
from jaxkd.predictors.inputs import output_names, write_table
from jaxkd.predictors.restore import Restored, restore
from jaxkd.readers import audio, clips
from jaxkd.readers.listing import shown

ON_MISSING_AUDIO = ("error", "skip")
# Frames of a window at most, as in training of the official code.
LONGEST = 1000
# Lengths are padded to multiples of this, so that few are compiled.
STEP = 50

Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Judgement(NamedTuple):
    """What was found out about one clip.

    Attributes:
      file: that was read.
      name: of the files that were written.
      status: one of ``clips.STATUSES``.
      score: mean difference of the frames' logits, higher for forged; NaN without one.
      probability: of forged, from the mean logits.
      correlation: mean over frames, in [0, 1].
      lowest: seconds of the file at which sound and lips disagree most.
      frames: at 25 a second, that were looked at.
      seconds: of the file that could be read.
      fps: of the file.
      notes: what a reader should know.
    """

    file: str
    name: str
    status: str
    score: float = math.nan
    probability: float = math.nan
    correlation: float = math.nan
    lowest: tuple[float, ...] = ()
    frames: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    notes: tuple[str, ...] = ()


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    crop: str | None = None,
    face_model: str | None = None,
    min_frames: int = 5,
    allow_silent: bool = False,
    trim_leading_silence: bool | None = None,
    on_missing_audio: str = "skip",
) -> str:
    """Judges clips and writes what is found into a folder.

    ``scores.csv`` and ``scores.json``, which also holds every frame's correlation and
    logit; a curve and the frames of lowest correlation of each clip, PNG files; and
    ``index.html``, which shows them all. A clip without a score has a row that tells
    its status and why.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: films, ``.npz`` files and folders, which are searched through.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      crop: "centre" or "detect"; None: as the network's training clips.
      face_model: YuNet's file, for "detect"; None: the one of the training clips.
      min_frames: below which a clip is too short.
      allow_silent: score silent clips all the same.
      trim_leading_silence: see ``clips.Preprocessing``; None: as the training clips.
      on_missing_audio: "skip" gives a clip without sound a row without a score;
        "error" ends with the first.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if there are no clips, or an option is impossible.
    """
    if on_missing_audio not in ON_MISSING_AUDIO:
        raise UserError(
            f"on_missing_audio is {on_missing_audio!r}, expected one of "
            f"{', '.join(ON_MISSING_AUDIO)}."
        )
    restored = restore(workdir, student, seed, use)
    options = _preprocessing(
        restored,
        crop=crop,
        face_model=face_model,
        min_frames=min_frames,
        allow_silent=allow_silent,
        trim_leading_silence=trim_leading_silence,
    )
    judge = _judge(restored)
    files = clips.find(inputs, output)
    output.mkdir(parents=True, exist_ok=True)
    judgements, curves = [], {}
    for name, path in tqdm(output_names(files).items(), unit="clip", disable=None):
        clip = clips.load(path, options)
        if clip.status == clips.NO_AUDIO and on_missing_audio == "error":
            raise UserError(
                f"{shown(path)} has no sound, and there is none beside it. Put "
                f"{path.stem}.wav beside it, or take --option=on_missing_audio=skip."
            )
        found, curve = _one(name, clip, judge, output)
        judgements.append(found)
        curves[name] = curve
    title = f"{restored.results['name']}: {restored.name}"
    _write(output, judgements, curves, title, options)
    scored = [one for one in judgements if not math.isnan(one.score)]
    lines = [
        f"{len(judgements)} clips, {len(scored)} scored -> {output / 'index.html'}"
    ]
    lines += [
        f"  {one.status}: {one.file}: {'; '.join(one.notes)}"
        for one in judgements
        if math.isnan(one.score)
    ]
    return "\n".join(lines)


def _preprocessing(restored: Restored, **given: Any) -> clips.Preprocessing:
    """Returns how clips are read: as given, else as the network's training clips."""
    trained = restored.config.data
    names = ("crop", "face_model", "trim_leading_silence")
    chosen = {name: trained[name] for name in names if name in trained}
    chosen |= {name: value for name, value in given.items() if value is not None}
    return clips.Preprocessing(size=restored.info.image_shape[-1], **chosen)


def _judge(restored: Restored) -> Judge:
    """Returns ``video, mfcc -> frame logits [time, 2], correlations [time]``."""
    if restored.config.method != "cmdfd":
        raise UserError(
            f"{restored.name} was trained by {restored.config.method!r}, expected a "
            "student of method 'cmdfd', such as those of configs/cmdfd.py."
        )

    @jax.jit
    def forward(video: jax.Array, mfcc: jax.Array, present: jax.Array):
        batch = {"video": video[None], "mfcc": mfcc[None], "present": present[None]}
        logits, features = restored.apply(batch)
        correlation = losses.audio_visual_correlation(
            features["audio"], features["video"]
        )
        return logits[0], correlation[0]

    def window(video: np.ndarray, mfcc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(video)
        more = -count % STEP
        logits, correlation = forward(
            jnp.asarray(np.pad(video, ((0, more), (0, 0), (0, 0)))),
            jnp.asarray(np.pad(mfcc, ((0, audio.ROWS_PER_FRAME * more), (0, 0)))),
            jnp.arange(count + more) < count,
        )
        return np.asarray(logits)[:count], np.asarray(correlation)[:count]

    def judge(video: np.ndarray, mfcc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = audio.ROWS_PER_FRAME
        # Windows of equal length, so that none is a remainder of a few frames.
        parts = math.ceil(len(video) / LONGEST)
        edges = np.linspace(0, len(video), parts + 1).round().astype(int)
        found = [
            window(video[a:b], mfcc[rows * a : rows * b])
            for a, b in itertools.pairwise(edges)
        ]
        logits, correlation = zip(*found, strict=True)
        return np.concatenate(logits), np.concatenate(correlation)

    return judge


def _one(
    name: str, clip: clips.Clip, judge: Judge, output: Path
) -> tuple[Judgement, dict[str, Any]]:
    """Judges a clip, and writes its pictures."""
    common: dict[str, Any] = {
        "seconds": clip.seconds,
        "fps": clip.fps,
        "notes": tuple(map(shown, clip.notes)),
        "frames": len(clip.video),
    }
    if not clip.usable:
        print(f"jaxkd: {shown(clip.path)}: {clip.status}", file=sys.stderr)
        return Judgement(shown(clip.path), name, clip.status, **common), {}
    made = clips.features(clip, "video", "mfcc")
    logits, correlation = judge(made["video"], made["mfcc"])
    real, fake = logits.mean(0).astype(float)
    lowest = clips_page.lowest(correlation)
    start = clip.skipped / audio.FPS
    path = output / f"{name}-curve.png"
    clips_page.curve(path, correlation, logits, lowest, start)
    clips_page.frames(output / f"{name}-frames.png", clip.video, lowest)
    judgement = Judgement(
        shown(clip.path),
        name,
        clip.status,
        score=fake - real,
        probability=float(1 / (1 + np.exp(real - fake))),
        correlation=float(correlation.mean()),
        lowest=tuple(round(start + float(i) / audio.FPS, 3) for i in lowest),
        **common,
    )
    return judgement, {
        "start": start,
        "correlation": [round(float(c), 5) for c in correlation],
        "logit": [round(float(z[1] - z[0]), 5) for z in logits],
    }


def _write(output: Path, judgements, curves, title: str, options) -> None:
    cells = [[_cell(value) for value in one] for one in judgements]
    write_table(output / "scores.csv", Judgement._fields, cells)
    rows = [
        {key: _plain(value) for key, value in one._asdict().items()}
        | {"per_frame": curves[one.name]}
        for one in judgements
    ]
    content = {"student": title, "preprocessing": options._asdict(), "clips": rows}
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    whole_files.write_text(output / "scores.json", text)
    whole_files.write_text(output / "index.html", clips_page.page(judgements, title))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return str(value)
