"""Marks the inpainted part of photographs of any size.

What is marked is what a network holds for inpainted, with its mistakes: it is a reason
to look closer and no proof.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxkd.core.errors import UserError
from jaxkd.core.files import write_text
from jaxkd.metrics import localization
from jaxkd.predictors import localization_page, localization_truth
from jaxkd.predictors.inputs import OK, UNREADABLE, output_names, write_table
from jaxkd.predictors.restore import in_batches, restore
from jaxkd.readers import images
from jaxkd.readers.listing import shown
from jaxkd.readers.masks import files as mask_files
from jaxkd.report.statistics import plural

INFERENCES = ("tile", "resize")

_BATCH = 16

Classify = Callable[[np.ndarray], np.ndarray]


class Reading(NamedTuple):
    """What was found out about one image.

    Attributes:
      file: that was read.
      name: of the files that were written.
      width: in pixels.
      height: in pixels.
      score: mean probability of the top 1 % of pixels.
      marked: fraction of pixels at or above the threshold.
      notes: what a reader should know.
      error: why it could not be read, or nothing.
    """

    file: str
    name: str = ""
    width: int = 0
    height: int = 0
    score: float = float("nan")
    marked: float = float("nan")
    notes: tuple[str, ...] = ()
    error: str = ""


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    inference: str = "tile",
    overlap: float = 0.5,
    threshold: float = 0.5,
    truth: str = "",
    recall: float = 0.5,
) -> str:
    """Marks images and writes what is found into a folder.

    ``masks/``, ``maps/`` (probabilities as grey) and ``overlays/``, PNG files of the
    images' own sizes and names; ``scores.csv`` and ``scores.json``; and ``index.html``,
    which shows them all. Every image has a row with its status; one that cannot be
    read has the reason, and no files. With masks of what was filled in, ``truth.csv``
    and ``truth.json`` compare, and count false alarms on authentic photographs.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: image files and folders; folders are searched through.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      inference: "tile" looks at windows as large as the training crops, at full
        resolution; "resize" squeezes the whole image into one, as the official code
        does.
      overlap: of neighbouring windows, a fraction.
      threshold: probability from which a pixel is marked.
      truth: folder of ``images/``, ``labels/`` and ``authentic/``, or a list, which
        knows every input; see ``jaxkd.predictors.localization_truth``.
      recall: part of all tampered pixels at which false alarms are counted.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if there are no images, an option is impossible, or, once the tables
        are written, none could be read.
    """
    _check(inference, overlap, threshold, recall)
    files = output_names(list(images.find(inputs, output)))
    known = localization_truth.find(truth, list(files.values())) if truth else None
    restored = restore(workdir, student, seed, use)
    forward = jax.jit(
        lambda batch: jax.nn.sigmoid(restored.apply({"image": batch})[0][..., 0])
    )
    classify = in_batches(forward, _BATCH)
    window = restored.info.image_shape[0]
    localize = {
        "tile": lambda image: tiled(image, classify, window, overlap),
        "resize": lambda image: squeezed(image, classify, window),
    }[inference]
    maps: dict[Path, np.ndarray] = {}
    for part in ("masks", "maps", "overlays"):
        (output / part).mkdir(parents=True, exist_ok=True)
    readings = [
        _read(path, name, localize, output, threshold, maps if known else None)
        for name, path in tqdm(files.items(), unit="image", disable=None)
    ]
    good = [reading for reading in readings if not reading.error]
    _write_tables(readings, output)
    if not good:
        raise UserError(
            f"No image could be read, such as: {readings[0].error} All of them are in "
            f"{output / 'scores.csv'}."
        )
    title = f"{restored.results['name']}, {restored.name}"
    page = localization_page.page(readings, title, threshold)
    write_text(output / "index.html", page)
    bad = [f"\n  {reading.error}" for reading in readings if reading.error]
    failed = f"; {len(bad)} could not be read:{''.join(bad)}" if bad else ""
    done = f"{plural(len(good), 'image')} -> {output / 'index.html'}{failed}"
    if known is None:
        return done
    cut, judged = localization_truth.judge(maps, known.pairs, recall)
    return done + localization_truth.write(output, cut, recall, judged, known.errors)


def _check(inference: str, overlap: float, threshold: float, recall: float) -> None:
    if inference not in INFERENCES or not 0 <= overlap < 1 or not 0 < threshold < 1:
        raise UserError(
            f"inference is {inference!r}, overlap {overlap} and threshold {threshold}; "
            f"expected one of {', '.join(INFERENCES)}, a fraction below 1, and a "
            "probability."
        )
    if not 0 < recall <= 1:
        raise UserError(f"recall is {recall}, expected a part above 0, at most 1.")


def tiled(
    image: np.ndarray, classify: Classify, window: int, overlap: float = 0.5
) -> np.ndarray:
    """Looks at an image through overlapping windows and blends what is seen.

    Each window counts most in its middle and fades as a cosine towards its border,
    where a network sees least. An image smaller than a window is mirrored.

    Args:
      image: uint8 ``[h, w, 3]``.
      classify: uint8 ``[n, window, window, 3]`` to probabilities without the last axis.
      window: side, in pixels.
      overlap: of neighbours, a fraction; the last of a line may overlap more.

    Returns:
      Probabilities ``[h, w]``.
    """
    size = image.shape[:2]
    short = [max(window - side, 0) for side in size]
    pad = ((0, short[0]), (0, short[1]), (0, 0))
    image = np.pad(image, pad, mode="symmetric") if any(short) else image
    corners = [
        (top, left)
        for top in _starts(image.shape[0], window, overlap)
        for left in _starts(image.shape[1], window, overlap)
    ]
    total, weights = np.zeros((2, *image.shape[:2]))
    fade = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    weight = np.outer(fade, fade) + 1e-6  # corners are seen by one window alone
    for start in range(0, len(corners), _BATCH):
        part = corners[start : start + _BATCH]
        seen = classify(
            np.stack([image[y : y + window, x : x + window] for y, x in part])
        )
        for (y, x), probabilities in zip(part, seen, strict=True):
            total[y : y + window, x : x + window] += weight * probabilities
            weights[y : y + window, x : x + window] += weight
    return (total / weights)[: size[0], : size[1]]


def _starts(side: int, window: int, overlap: float) -> list[int]:
    """Returns where windows begin, the last at the far border."""
    step = max(round(window * (1 - overlap)), 1)
    return [*range(0, side - window, step), side - window]


def squeezed(image: np.ndarray, classify: Classify, window: int) -> np.ndarray:
    """Looks at the whole image in one window; the map is enlarged to its size."""
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    small = np.array(Image.fromarray(image).resize((window, window), bilinear))
    probabilities = classify(small[None])[0].astype(np.float32)
    large = Image.fromarray(probabilities).resize(image.shape[1::-1], bilinear)
    return np.array(large, np.float64)


def _read(
    path: Path,
    name: str,
    localize: Callable[[np.ndarray], np.ndarray],
    output: Path,
    threshold: float,
    keep: dict[Path, np.ndarray] | None,
) -> Reading:
    """Reads and marks an image; its map is put into ``keep`` where that is given."""
    notes: list[str] = []
    try:
        image = mask_files.read_image(path, notes.append).pixels
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        return Reading(shown(path), error=shown(str(error)))
    probabilities = localize(image)
    if keep is not None:
        keep[path] = probabilities.astype(np.float32)
    marked = probabilities >= threshold
    localization_page.write(output, name, image, probabilities, marked)
    height, width = image.shape[:2]
    score = float(localization.image_scores(probabilities[None])[0])
    return Reading(
        *(shown(path), name, width, height),
        *(score, float(marked.mean()), tuple(map(shown, notes))),
    )


def _write_tables(readings: Sequence[Reading], output: Path) -> None:
    listed = []
    for reading in readings:
        numbers = ["", ""]
        if not reading.error:
            numbers = [f"{reading.score:.6f}", f"{reading.marked:.6f}"]
        notes = "; ".join(reading.notes)
        status = UNREADABLE if reading.error else OK
        listed.append((*reading[:4], *numbers, status, notes, reading.error))
    header = (*Reading._fields[:6], "status", "notes", "error")
    write_table(output / "scores.csv", header, listed)
    rows = [
        reading._asdict() | ({"score": None, "marked": None} if reading.error else {})
        for reading in readings
    ]
    text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    write_text(output / "scores.json", text)
