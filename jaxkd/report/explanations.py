"""A page of pairs of images with what a model says about them."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import files


class Explained(NamedTuple):
    """A pair and its verdict.

    Attributes:
      first: uint8 image.
      second: likewise.
      same: the truth; None if unknown.
      decision: True, False or None for undecided.
      text: the explanation.
    """

    first: np.ndarray
    second: np.ndarray
    same: bool | None
    decision: bool | None
    text: str


def write(
    path: Path, title: str, pairs: Sequence[Explained], notes: Sequence[str] = ()
) -> Path:
    """Writes a page that needs no other file; texts are shown as they are, escaped.

    Args:
      path: the page.
      title: its heading.
      pairs: in their order.
      notes: paragraphs above the pairs, whose lines and columns are kept.
    """
    rows = "\n".join(_row(pair) for pair in pairs)
    above = "\n".join(f"<pre>{html.escape(note)}</pre>" for note in notes)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
article {{ display: grid; grid-template-columns: 9rem 9rem 1fr; gap: 1rem;
  border-top: 1px solid #8886; padding: 1rem 0; }}
img {{ width: 100%; background: #fff; image-rendering: pixelated; }}
pre {{ white-space: pre-wrap; margin: 0 0 1rem; font-size: .85rem; }}
.wrong {{ color: #c4302b; }}
</style></head><body><h1>{html.escape(title)}</h1>
{above}
{rows}
</body></html>
"""
    files.write_text(path, page)
    return path


def _row(pair: Explained) -> str:
    said = _name(pair.decision, "undecided")
    truth = _name(pair.same, "unknown")
    wrong = pair.same is not None and pair.decision is not pair.same
    kind = ' class="wrong"' if wrong else ""
    return (
        f'<article><img alt="known sample" src="{_source(pair.first)}">'
        f'<img alt="questioned sample" src="{_source(pair.second)}">'
        f"<div><p{kind}><b>{said}</b> (truth: {truth})</p>"
        f"<pre>{html.escape(pair.text)}</pre></div></article>"
    )


def _name(decision: bool | None, otherwise: str) -> str:
    return {True: "one writer", False: "two writers", None: otherwise}[decision]


def _source(image: np.ndarray) -> str:
    from PIL import Image

    out = io.BytesIO()
    plain = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    Image.fromarray(plain).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
