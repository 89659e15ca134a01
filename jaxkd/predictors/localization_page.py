"""Pictures and the page of what was found in photographs."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

_TINT = (255, 40, 40)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1c1e21;
  background: #fcfcfb; }
.sheet { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
figure { margin: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
img { width: 100%; display: block; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
.bad { color: #b00020; }
@media (prefers-color-scheme: dark) { body { color: #e9eaec; background: #17191c; } }
"""


def overlay(
    image: np.ndarray, probabilities: np.ndarray, marked: np.ndarray
) -> np.ndarray:
    """Tints an image by probability and outlines what is marked.

    Args:
      image: uint8 ``[h, w, 3]``.
      probabilities: ``[h, w]``.
      marked: bool ``[h, w]``.
    """
    from scipy import ndimage

    part = 0.6 * np.clip(probabilities, 0, 1)[..., None]
    tinted = image * (1 - part) + np.array(_TINT) * part
    outline = marked & ~ndimage.binary_erosion(marked, border_value=1)
    tinted[outline] = _TINT
    return np.round(tinted).astype(np.uint8)


def write(
    output: Path,
    name: str,
    image: np.ndarray,
    probabilities: np.ndarray,
    marked: np.ndarray,
) -> None:
    """Writes ``masks/``, ``maps/`` and ``overlays/`` of one image.

    Args:
      output: folder that holds these.
      name: of the files, without ``.png``.
      image: uint8 ``[h, w, 3]``.
      probabilities: ``[h, w]``.
      marked: bool ``[h, w]``.
    """
    from PIL import Image

    pictures = {
        "masks": np.where(marked, 255, 0).astype(np.uint8),
        "maps": np.round(255 * np.clip(probabilities, 0, 1)).astype(np.uint8),
        "overlays": overlay(image, probabilities, marked),
    }
    for folder, picture in pictures.items():
        Image.fromarray(picture).save(output / folder / f"{name}.png")


def page(readings: Sequence[Any], title: str, threshold: float) -> str:
    """Returns the contact sheet, the most suspicious images first.

    Args:
      readings: see ``localization.Reading``.
      title: of the page.
      threshold: from which pixels are marked.
    """
    good = sorted((r for r in readings if not r.error), key=lambda r: -r.score)
    figures = [_figure(reading) for reading in good]
    bad = [f'<p class="bad">{escape(r.error)}</p>' for r in readings if r.error]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{escape(title)}</h1>\n"
        f"<p>Left the image with what is held for inpainted in red, right the "
        f"probability. Marked from {threshold:g}; the score is the mean of the top 1 % "
        "of pixels. A network errs: this is a reason to look closer and no proof.</p>\n"
        f'{"".join(bad)}<div class="sheet">\n{"".join(figures)}</div>\n</html>\n'
    )


def _figure(reading: Any) -> str:
    name = quote(f"{reading.name}.png")
    notes = "".join(f"<br>{escape(note)}" for note in reading.notes)
    pictures = "".join(
        f'<a href="{folder}/{name}"><img src="{folder}/{name}" loading="lazy" '
        f'alt="{folder[:-1]} of {escape(reading.name)}"></a>'
        for folder in ("overlays", "maps")
    )
    return (
        f'<figure><div class="pair">{pictures}</div><figcaption>'
        f"{escape(reading.file)}<br>{reading.width} × {reading.height}, score "
        f"{reading.score:.2f}, {reading.marked:.1%} marked{notes}"
        "</figcaption></figure>\n"
    )
