"""Pictures and the page of what was found about CT scans."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.readers.ct.volumes import WINDOWS
from jaxkd.report.style import LIGHT, WIDTH, canvas

LEVELS = 5  # slices shown of a scan

_MEANING = {
    "attention": "what the first attention module lets through; the same for every "
    "class, and on drawn scans no guide to lesions",
    "cam": "what speaks for the class, on the coarsest grid",
    "gradcam": "the same, on the grid of the attention",
}


def montage(
    path: Path,
    voxels: np.ndarray,
    maps: Mapping[str, np.ndarray],
    title: str,
    note: str,
) -> None:
    """Draws slices of a scan, alone and under each of its heat maps.

    Args:
      path: of the PNG file.
      voxels: Hounsfield units ``[depth, height, width]``.
      maps: name -> heat from 0 to 1, of the same shape.
      title: above.
      note: below.
    """
    depth = voxels.shape[0]
    levels = np.linspace(0, depth - 1, LEVELS + 2).round().astype(int)[1:-1]
    low, high = WINDOWS["default"]
    rows = ["scan", *maps]
    with canvas(path, (WIDTH, 2.0 * len(rows) + 0.7), LIGHT, "constrained") as figure:
        grid = figure.subplots(len(rows), LEVELS, squeeze=False)
        for line, name in zip(grid, rows, strict=True):
            line[0].set_ylabel(name)
            for axes, level in zip(line, levels, strict=True):
                axes.imshow(voxels[level], cmap="gray", vmin=low, vmax=high)
                if name != "scan":
                    heat = maps[name][level]
                    axes.imshow(heat, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
        for axes, level in zip(grid[0], levels, strict=True):
            axes.set_title(f"slice {level}", fontsize=9)
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(note, fontsize=9)


def page(
    readings: Sequence[Any], classes: Sequence[str], title: str, warning: str
) -> str:
    """Returns an HTML page of all scans; its pictures lie beside it.

    Args:
      readings: of the scans, as ``ct.Reading``.
      classes: their names.
      title: of the run.
      warning: for every reader.
    """
    rows = "\n".join(_row(one, classes) for one in readings)
    heading = "".join(f"<th>{escape(name)}</th>" for name in classes)
    meaning = "".join(
        f"<li><b>{escape(name)}</b>: {escape(text)}</li>"
        for name, text in _MEANING.items()
        if any(name in one.maps for one in readings)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; }}
td, th {{ padding: 0.3rem 0.7rem; text-align: right; vertical-align: top; }}
td:first-child, th:first-child, td.text {{ text-align: left; }}
tr.bad td {{ color: #c0392b; }}
img {{ max-width: 100%; }}
.wide {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p><strong>{escape(warning)}</strong></p>
<div class="wide"><table>
<thead><tr><th>scan</th>{heading}<th>notes</th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<p>Heat maps, each spread over its own range:</p>
<ul>{meaning}</ul>
{"".join(_picture(one) for one in readings if not one.error)}
</body>
</html>
"""


def _row(one: Any, classes: Sequence[str]) -> str:
    if one.error:
        return (
            f'<tr class="bad"><td>{escape(one.case)}</td>'
            f'<td class="text" colspan="{len(classes) + 1}">{escape(one.error)}</td>'
            "</tr>"
        )
    cells = "".join(f"<td>{value:.3f}</td>" for value in one.probabilities)
    notes = escape("; ".join(one.notes))
    return f'<tr><td>{escape(one.case)}</td>{cells}<td class="text">{notes}</td></tr>'


def _picture(one: Any) -> str:
    name = escape(one.case)
    return f'<h2>{name}</h2>\n<img src="{name}.png" alt="Slices and maps of {name}">\n'
