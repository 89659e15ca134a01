"""Shows clips as networks get them: the crops, and sound and lips side by side.

Detectors that are near perfect on their test set call most of other people's real clips
fake where these are cropped or timed in another way. Look before training or judging.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.readers import clips
from jaxkd.readers.audio import FPS, RATE
from jaxkd.readers.listing import shown

SHOWN = 8  # crops of a clip
MOST_LAG = 15  # frames
ENOUGH = 5  # clips, for a mean that tells something
# Decibels below full scale under which sound counts as silence.
FLOOR = -60.0


def loudness(wave: np.ndarray, frames: int) -> np.ndarray:
    """Computes the loudness of each video frame, in dB of full scale.

    Args:
      wave: ``[samples]``, 16 kHz, in the range of int16.
      frames: number of video frames.

    Returns:
      ``[frames]``, at least -60.
    """
    size = round(RATE / FPS)
    wave = np.pad(np.asarray(wave, np.float64), (0, max(frames * size - len(wave), 0)))
    power = np.mean(wave[: frames * size].reshape(frames, size) ** 2, axis=1)
    return 10 * np.log10(np.maximum(power / 32768.0**2, 10 ** (FLOOR / 10)))


def motion(video: np.ndarray) -> np.ndarray:
    """Computes how much the lower half of each crop changes from the frame before.

    Args:
      video: grey ``[time, size, size]``.

    Returns:
      Mean absolute difference in grey levels, ``[time]``; the first is 0.
    """
    lower = video[:, video.shape[1] // 2 :].astype(np.float64)
    moved = np.abs(np.diff(lower, axis=0)).mean((1, 2))
    return np.concatenate([[0.0], moved])


def agreement(clip: clips.Clip) -> np.ndarray | None:
    """Correlates changes of loudness with motion of the lower face, at every shift.

    Args:
      clip: that was read.

    Returns:
      ``[2 MOST_LAG + 1]``, the sound after the lips by ``-MOST_LAG`` frames and more.
      None for clips of fewer than 40 frames, and those whose sound or lips are still.
    """
    frames = len(clip.video)
    if frames < MOST_LAG + 25:
        return None
    heard = np.abs(np.diff(loudness(clip.wave, frames)))
    seen = motion(clip.video)[1:]
    found = []
    for shift in range(-MOST_LAG, MOST_LAG + 1):
        sound = heard[max(shift, 0) : len(heard) + min(shift, 0)]
        lips = seen[max(-shift, 0) : len(seen) + min(-shift, 0)]
        if not (np.std(sound) and np.std(lips)):
            return None
        found.append(np.corrcoef(sound, lips)[0, 1])
    return np.array(found)


def alignment(curves: Sequence[np.ndarray]) -> str:
    """Describes the shift at which the clips agree best, on average.

    It shows that a whole set was cut or converted out of step. Of a single clip it says
    little: it knows loudness and motion, not speech.

    Args:
      curves: of ``agreement``.
    """
    if len(curves) < ENOUGH:
        return (
            f"{len(curves)} clips are long enough, with sound and motion, expected "
            f"{ENOUGH} to measure by how much sound and lips are out of step"
        )
    mean = np.mean(curves, axis=0)
    best = int(np.argmax(mean))
    side = "after" if best >= MOST_LAG else "before"
    return (
        f"over {len(curves)} clips, sound changes {abs(best - MOST_LAG) / FPS:.2f} s "
        f"{side} the lower face (mean correlation {mean[best]:.2f}; in step: "
        f"{mean[MOST_LAG]:.2f})"
    )


def check(
    inputs: Sequence[Path], output: Path, options: clips.Preprocessing | None = None
) -> str:
    """Draws every clip, and writes a page of all.

    Args:
      inputs: films, ``.npz`` files and folders, which are searched through.
      output: a folder, made if it is not there: ``index.html`` and the pictures.
      options: for reading; None for the defaults.

    Returns:
      A line for each clip, for the terminal.

    Raises:
      UserError: if there are no clips, or an option is impossible.
    """
    options = options or clips.Preprocessing()
    if options.size < 1:
        raise UserError(f"size is {options.size}, expected 1 or more pixels.")
    paths = clips.find(inputs, output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{shown(output)} is a file, expected a folder to write to.")
    output.mkdir(parents=True, exist_ok=True)
    lines, sections, curves = [], [], []
    for number, path in enumerate(paths):
        clip = clips.load(path, options)
        facts = describe(clip)
        lines.append(f"{shown(path)}: {facts}")
        section = f"<h2>{escape(shown(path))}</h2>\n<p>{escape(facts)}</p>"
        if len(clip.video):
            name = f"{number:04d}.png"
            draw(output / name, clip)
            section += f'\n<img src="{name}" alt="crops, loudness and motion">'
        sections.append(section)
        curve = agreement(clip)
        if curve is not None:
            curves.append(curve)
    summary = alignment(curves)
    files.write_text(output / "index.html", _page(sections, summary, options))
    where = shown(output / "index.html")
    return "\n".join([*lines, summary, f"{len(paths)} clips -> {where}"])


def describe(clip: clips.Clip) -> str:
    """Describes in a line what was read, and how."""
    parts = [clip.status]
    if len(clip.video):
        parts += [
            f"{len(clip.video)} frames of {clip.video.shape[1]} pixels",
            f"{clip.fps:.5g} fps",
            f"{clip.leading_silence:.2f} s of leading silence",
        ]
    if clip.faces:
        parts.append(f"{clip.faces} faces" if clip.faces > 1 else "1 face")
    return "; ".join([*parts, *map(shown, clip.notes)])


def draw(path: Path, clip: clips.Clip) -> None:
    """Draws crops of a clip, and below them loudness and motion over time.

    Args:
      path: of the PNG file.
      clip: of one frame or more.
    """
    from jaxkd.report.style import LIGHT, WIDTH, canvas

    count = len(clip.video)
    chosen = np.unique(np.linspace(0, count - 1, SHOWN).round().astype(int))
    seconds = clip.skipped / FPS + np.arange(count) / FPS
    with canvas(path, (WIDTH, 3.6), LIGHT, "constrained") as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.6))
        grid = above.subplots(1, len(chosen), squeeze=False)[0]
        for axes, frame in zip(grid, chosen, strict=True):
            axes.set_axis_off()
            axes.imshow(clip.video[frame], cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{seconds[frame]:.2f} s", fontsize=8)
        sound, lips = below.subplots(2, 1, sharex=True)
        sound.plot(seconds, loudness(clip.wave, count), color=LIGHT.hues[0])
        sound.set(ylabel="loudness, dB")
        lips.plot(seconds, motion(clip.video), color=LIGHT.hues[1])
        lips.set(xlabel="seconds", ylabel="motion")
        for axes in (sound, lips):
            for second in seconds[chosen]:
                axes.axvline(second, color=LIGHT.grid, zorder=0)


def _page(sections: Sequence[str], summary: str, options: clips.Preprocessing) -> str:
    read = ", ".join(f"{name} {value!r}" for name, value in options._asdict().items())
    body = "\n".join(sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Clips as networks get them</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>Clips as networks get them</h1>
<p>Read with {escape(read)}. The mouth belongs in the lower half of every crop. Motion:
mean difference of the lower half from the frame before.</p>
<p>Alignment: {escape(summary)}.</p>
{body}
</body>
</html>
"""
