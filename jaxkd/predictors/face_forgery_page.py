"""Pictures and the page of faces that were scored for forgery."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

# Where regions lie in an aligned face: ellipses (x, y, half width, half height), in
# fractions of the side. From the five points of the ArcFace template, enlarged by 1.3.
PLACES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "eye": ((0.38, 0.46, 0.09, 0.05), (0.62, 0.46, 0.09, 0.05)),
    "eyebrow": ((0.37, 0.35, 0.11, 0.04), (0.63, 0.35, 0.11, 0.04)),
    "lip": ((0.5, 0.76, 0.15, 0.08),),
    "mouth": ((0.5, 0.76, 0.10, 0.045),),
    "nose": ((0.5, 0.57, 0.08, 0.1),),
    "skin": ((0.5, 0.53, 0.32, 0.40),),
}
_COLOUR = (255, 40, 40)
_SIDE = 160  # of the pictures, at least
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1c1e21;
  background: #fcfcfb; }
.sheet { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
figure { margin: 0; }
img { width: 100%; display: block; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 12px; }
td { padding: 0 .6em 0 0; }
.bad { color: #b00020; }
@media (prefers-color-scheme: dark) { body { color: #e9eaec; background: #17191c; } }
"""


def draw(image: np.ndarray, regions: Sequence[str]) -> np.ndarray:
    """Outlines regions where they lie in an aligned face.

    Args:
      image: uint8 ``[h, w, 3]``.
      regions: some of ``PLACES``.

    Returns:
      uint8 ``[h', w', 3]``, enlarged if it is small.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    factor = max(1, -(-_SIDE // min(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    picture = picture.resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    width, height = size
    for name in regions:
        for x, y, across, down in PLACES[name]:
            box = (
                ((x - across) * width, (y - down) * height),
                ((x + across) * width, (y + down) * height),
            )
            pen.ellipse(box, outline=_COLOUR, width=max(1, min(size) // 90))
    return np.array(picture)


def write(path: Path, image: np.ndarray, regions: Sequence[str]) -> None:
    """Writes an image with its altered regions outlined."""
    from PIL import Image

    Image.fromarray(draw(image, regions)).save(path)


def page(findings: Sequence[Any], title: str, threshold: float) -> str:
    """Returns the contact sheet, the most suspicious faces first.

    Args:
      findings: see ``face_forgery.Finding``.
      title: of the page.
      threshold: from which faces are fake, and attributes and regions altered.
    """
    good = sorted((f for f in findings if not f.error), key=lambda f: -f.fake)
    bad = [f'<p class="bad">{escape(f.error)}</p>\n' for f in findings if f.error]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{escape(title)}</h1>\n"
        f"<p>Fake, altered attributes and regions from a probability of {threshold:g}. "
        "Outlines are where such regions lie in an aligned face; the network names "
        "regions and does not locate them. A network errs: this is a reason to look "
        "closer and no proof.</p>\n"
        f'{"".join(bad)}<div class="sheet">\n{"".join(map(_figure, good))}</div>\n'
        "</html>\n"
    )


def _figure(finding: Any) -> str:
    source = f"faces/{quote(finding.name)}"
    notes = {"small": " (small: shows little)", "damaged": " (damaged: a part is read)"}
    note = notes.get(finding.status, "")
    if finding.frames > 1:
        note = f", mean over {finding.frames} frames, the most suspicious shown{note}"
    return (
        f'<figure><a href="{source}"><img src="{source}" loading="lazy" '
        f'alt="{escape(finding.explanation)}"></a><figcaption>'
        f"<b>{escape(finding.explanation)}</b><br>{escape(finding.file)}<br>"
        f"{finding.width} × {finding.height}{note}</figcaption></figure>\n"
    )
