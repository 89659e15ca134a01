"""Which mask belongs to which image: by name or by a list, never by place.

Accepted below a folder:

- ``images/`` and ``labels/`` (or ``masks/``): a mask has the name of its image, with
  any extension, and may end in ``_mask`` or ``_gt``; ``edges/`` is ignored, since edges
  follow from masks.
- ``Tp/`` and ``Gt/``, likewise.
- ``authentic/`` (or ``Au/``) beside either: images without a mask.

A list (JSON or CSV) of image and mask, relative to the list, says itself which images
have none: ``null``, nothing, or ``Negative``.
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import listing
from jaxkd.readers.images import SUFFIXES

LAYOUTS = (("images", "labels"), ("images", "masks"), ("Tp", "Gt"))
UNTOUCHED = ("authentic", "Au")
_DERIVED = ("edges",)  # they follow from masks
ENDINGS = ("_mask", "_gt")
_NONE = ("", "negative", "null", "none")


class Pair(NamedTuple):
    """An image and its mask; None for an authentic image."""

    image: Path
    mask: Path | None


def find(place: Path, endings: Sequence[str] = ENDINGS) -> list[Pair]:
    """Lists the pairs of a folder or of a list.

    Args:
      place: a folder in one of the layouts above, or a ``.json`` or ``.csv`` file.
      endings: of names, left out when masks are matched with images, such as
        ``("_edgemask", "-mask")``, or COVERAGE's ``("t", "forged")``.

    Raises:
      UserError: naming every file that has no partner, at once.
    """
    if place.suffix.lower() in (".json", ".csv") and place.is_file():
        return _listed(place)
    if not place.is_dir():
        raise UserError(f"{place} is neither a folder nor a list. {_WANTED}")
    found = [pair for pair in LAYOUTS if (place / pair[0]).is_dir()]
    layout = next((p for p in found if (place / p[1]).is_dir()), None)
    pairs = []
    if layout is not None:
        pairs = _matched(place / layout[0], place / layout[1], endings)
    elif found:
        masks = " or ".join(f"{place / mask}" for image, mask in found)
        raise UserError(
            f"{place / found[0][0]} has no folder of masks: {masks} is missing. "
            "Authentic images belong into authentic/, or into a list that says so."
        )
    for name in UNTOUCHED:
        if (place / name).is_dir():
            pairs += [Pair(path, None) for path in _images(place / name)]
    if not pairs:
        raise UserError(f"{place} holds no images and masks. {_WANTED}")
    used = {*(layout or ()), *UNTOUCHED, *_DERIVED}
    inside = [name for name in listing.entries(place) if (place / name).is_dir()]
    _refuse_unused(place, [name for name in inside if name not in used])
    return pairs


_WANTED = (
    "Expected images/ and labels/ (or masks/), Tp/ and Gt/, or a list train.json or "
    "train.csv of images and masks."
)


def _refuse_unused(place: Path, names: Sequence[str]) -> None:
    """Refuses folders that nothing would be read from."""
    if names:
        raise UserError(
            f"{place} has folders that nothing is read from: {_some(names)}. Expected "
            f"one layout. {_WANTED} Images without masks belong into "
            f"{' or '.join(UNTOUCHED)}; move other folders away."
        )


def _images(folder: Path) -> list[Path]:
    files = [folder / name for name in listing.entries(folder)]
    strange = [p.name for p in files if p.suffix.lower() not in SUFFIXES]
    if strange:
        raise UserError(
            f"{folder} holds what is no image by its name: {_some(strange)}. Expected "
            f"{', '.join(SUFFIXES)}; remove other files and folders."
        )
    if not files:
        raise UserError(f"{folder} is empty. Expected images, or remove the folder.")
    return files


def _matched(images: Path, masks: Path, endings: Sequence[str]) -> list[Pair]:
    by_stem: dict[str, list[Path]] = {}
    for path in _images(masks):
        by_stem.setdefault(_stem(path, endings), []).append(path)
    pairs, alone = [], []
    used: dict[str, Path] = {}
    for path in _images(images):
        stem = path.stem if path.stem in by_stem else _stem(path, endings)
        if stem in used:
            raise UserError(
                f"{path} and {used[stem]} would share a mask: their names differ only "
                "in the extension or ending. Rename one of them."
            )
        used[stem] = path
        candidates = by_stem.get(stem, [])
        if len(candidates) > 1:
            raise UserError(
                f"{path} has several masks: {_some(map(str, candidates))}. Keep one."
            )
        if candidates:
            pairs.append(Pair(path, candidates[0]))
        else:
            alone.append(str(path))
    spare = [
        str(p) for stem, paths in by_stem.items() for p in paths if stem not in used
    ]
    if alone or spare:
        raise UserError(
            f"{len(alone)} images have no mask ({_some(alone)}) and {len(spare)} masks "
            f"no image ({_some(spare)}). Expected equal names, up to extension and the "
            f"endings {' and '.join(endings)} (mask_endings). Authentic images "
            "belong into authentic/ or into a list that says so."
        )
    return pairs


def _stem(path: Path, endings: Sequence[str]) -> str:
    for ending in sorted(endings, key=len, reverse=True):
        if path.stem.lower().endswith(ending.lower()) and len(path.stem) > len(ending):
            return path.stem[: -len(ending)]
    return path.stem


def _some(names, most: int = 20) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + rest


def _listed(path: Path) -> list[Pair]:
    rows = _rows(path)
    pairs, missing = [], []
    for number, row in enumerate(rows, start=1):
        image, mask = _row(row, number, path)
        pair = Pair(
            parsing.beside(path, image), (mask and parsing.beside(path, mask)) or None
        )
        missing += [str(p) for p in pair if p is not None and not parsing.is_file(p)]
        pairs.append(pair)
    if missing:
        raise UserError(
            f"{path} names {len(missing)} files that are not there: {_some(missing)}. "
            f"Paths are relative to {path.parent}."
        )
    counts = Counter(pair.image for pair in pairs)
    twice = sorted(str(image) for image, count in counts.items() if count > 1)
    if twice:
        raise UserError(f"{path} names images more than once: {_some(twice)}.")
    if not pairs:
        raise UserError(f"{path} is empty. Expected pairs of image and mask.")
    return pairs


def _rows(path: Path) -> list:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = [row for row in csv.reader(text.splitlines()) if row]
            heading = rows and rows[0][0].strip().lower() in ("image", "images")
            return rows[1:] if heading else rows
        rows = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as a list: {error}. Expected "
            '[["images/a.png", "masks/a.png"], ["images/b.png", null]].'
        ) from error
    if not isinstance(rows, list):
        raise UserError(
            f"{path} holds {type(rows).__name__}, expected a list of pairs."
        )
    return rows


def _row(row: Sequence, number: int, path: Path) -> tuple[str, str | None]:
    fits = isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)
    if not fits or not (row[1] is None or isinstance(row[1], str)):
        raise UserError(
            f"{path}: entry {number} is {row!r}, expected the image and its mask (or "
            "null for an authentic image)."
        )
    image, mask = row
    if mask is None or mask.strip().lower() in _NONE:
        return image.strip(), None
    return image.strip(), mask.strip()
