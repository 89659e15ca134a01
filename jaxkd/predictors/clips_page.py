"""Pictures and the page of what was found about clips."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from jaxkd.readers.audio import FPS
from jaxkd.report.style import LIGHT, WIDTH, canvas

SHOWN = 6  # frames of each clip
_APART = 5  # frames, at least, between two that are shown

WARNING = (
    "A score is what a network holds for forged, with its mistakes: a reason to look "
    "closer, and no proof. Thresholds do not transfer between kinds of recordings: "
    "calibrate on real clips of your own."
)


def lowest(correlation: np.ndarray) -> np.ndarray:
    """Returns the frames of lowest correlation, in order of time, some apart."""
    chosen: list[int] = []
    for frame in np.argsort(correlation, kind="stable"):
        if all(abs(int(frame) - other) >= _APART for other in chosen):
            chosen.append(int(frame))
        if len(chosen) == SHOWN:
            break
    return np.array(sorted(chosen))


def curve(
    path: Path,
    correlation: np.ndarray,
    logits: np.ndarray,
    marked: np.ndarray,
    start: float = 0.0,
) -> None:
    """Draws the correlation and the logit of forged over time.

    Args:
      path: of the PNG file.
      correlation: ``[time]``.
      logits: ``[time, 2]``.
      marked: frames to mark.
      start: seconds of the file at the first frame.
    """
    seconds = start + np.arange(len(correlation)) / FPS
    with canvas(path, (WIDTH, 3.2), LIGHT, "constrained") as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        above.plot(seconds, correlation, color=LIGHT.hues[0])
        above.plot(seconds[marked], correlation[marked], "o", color=LIGHT.hues[1])
        above.set(ylabel="correlation", ylim=(-0.03, 1.03))
        below.plot(seconds, logits[:, 1] - logits[:, 0], color=LIGHT.hues[1])
        below.axhline(0, color=LIGHT.grid)
        below.set(xlabel="seconds", ylabel="logit of forged")


def frames(path: Path, video: np.ndarray, marked: np.ndarray) -> None:
    """Writes the marked frames of ``[time, size, size]`` side by side."""
    from PIL import Image

    strip = np.concatenate(
        [np.pad(video[i], 2, constant_values=255) for i in marked], 1
    )
    Image.fromarray(strip).save(path)


def page(judgements: Sequence[Any], title: str) -> str:
    """Returns an HTML page of all clips, the most suspicious first.

    Args:
      judgements: of the clips, as ``predictors.clips.Judgement``.
      title: of the run.
    """
    ordered = sorted(
        judgements, key=lambda one: math.inf if math.isnan(one.score) else -one.score
    )
    rows = "\n".join(_row(one) for one in ordered)
    details = "\n".join(_detail(one) for one in ordered if not math.isnan(one.score))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; }}
td, th {{ padding: 0.3rem 0.7rem; text-align: right; vertical-align: top; }}
td.text, th.text {{ text-align: left; }}
tr.bad td {{ color: #c0392b; }}
img {{ max-width: 100%; }}
.wide {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p><strong>{escape(WARNING)}</strong></p>
<div class="wide"><table>
<thead><tr><th class="text">clip</th><th class="text">status</th><th>score</th>
<th>probability</th><th>correlation</th><th>frames</th><th class="text">notes</th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table></div>
{details}
</body>
</html>
"""


def _row(one: Any) -> str:
    numbers = (one.score, one.probability, one.correlation)
    cells = "".join(f"<td>{'' if math.isnan(x) else f'{x:.3f}'}</td>" for x in numbers)
    bad = math.isnan(one.score)
    name = (
        escape(one.file)
        if bad
        else f'<a href="#{quote(one.name)}">{escape(one.file)}</a>'
    )
    return (
        f'<tr{" class=bad" if bad else ""}><td class="text">{name}</td>'
        f'<td class="text">{escape(one.status)}</td>{cells}<td>{one.frames}</td>'
        f'<td class="text">{escape("; ".join(one.notes))}</td></tr>'
    )


def _detail(one: Any) -> str:
    times = ", ".join(f"{seconds:.2f}" for seconds in one.lowest)
    picture = quote(one.name)
    return (
        f'<h2 id="{picture}">{escape(one.file)}</h2>\n'
        f'<img src="{picture}-curve.png" alt="correlation and logit over time">\n'
        f"<p>Sound and lips agree least at {times} s:</p>\n"
        f'<img src="{picture}-frames.png" alt="these frames">'
    )
