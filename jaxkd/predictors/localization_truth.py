"""Compares maps of whole photographs with the masks of what was filled in.

Photographs that nobody touched count by their false alarms: the part of their pixels
that is marked where a stated part of all tampered pixels is found.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.files import write_text
from jaxkd.datasets import mask_images
from jaxkd.metrics import localization
from jaxkd.predictors.inputs import attempt, write_table
from jaxkd.readers.listing import shown
from jaxkd.readers.masks import files as mask_files
from jaxkd.readers.masks import pairs


class Truth(NamedTuple):
    """What is known of the photographs.

    Attributes:
      pairs: photograph -> with its mask, or none; those that can be compared.
      errors: photograph -> why its mask cannot be used.
    """

    pairs: dict[Path, pairs.Pair]
    errors: dict[Path, str]


class Judged(NamedTuple):
    """How one photograph's map compares with its mask.

    Attributes:
      file: of the photograph.
      tampered: fraction of its pixels that were filled in; 0 if it is authentic.
      recall: part of those that are marked at the common threshold.
      false_alarms: part of all other pixels that are.
      iou: of the tampered pixels at that threshold.
      auc: of its pixels, whatever the threshold.
    """

    file: str
    tampered: float
    recall: float
    false_alarms: float
    iou: float
    auc: float


def find(place: str, files: Sequence[Path]) -> Truth:
    """Finds the mask of every file, or that it has none, and reads all masks once.

    A bad mask is so met before anything is compiled; its photograph is left out of the
    comparison, and named.

    Args:
      place: a folder or list as ``jaxkd.readers.masks.pairs`` reads them: authentic
        photographs are named as such.
      files: the photographs.

    Raises:
      UserError: if a file is not among them, or none has a mask that can be used.
    """
    known = {
        pair.image.resolve(): pair for pair in pairs.find(Path(place).expanduser())
    }
    missing = [path for path in files if path.resolve() not in known]
    if missing:
        raise UserError(
            f"{shown(missing[0])} is not among the photographs of truth={place!r} "
            f"({len(missing)} of {len(files)} inputs). Expected inputs from there, "
            f"such as --inputs={place}/images --inputs={place}/authentic."
        )
    found = {path: known[path.resolve()] for path in files}
    if not any(pair.mask for pair in found.values()):
        raise UserError(
            f"None of the {len(files)} inputs has a mask in truth={place!r}. Expected "
            "some, since the threshold is chosen by what is found of them."
        )
    errors: dict[Path, str] = {}
    for path, pair in found.items():
        if pair.mask is not None and _is_image(path):
            attempt(lambda path: _mask(found[path]), path, errors)
    good = {path: pair for path, pair in found.items() if path not in errors}
    if not any(pair.mask for pair in good.values()):
        raise UserError(
            f"None of the masks in truth={place!r} can be used, such as: "
            f"{next(iter(errors.values()))}"
        )
    return Truth(good, errors)


def _is_image(path: Path) -> bool:
    """Tells whether a photograph can be read; those that cannot are named later."""
    try:
        mask_files.read_image(path, lambda text: None)
    except UserError:
        return False
    return True


def judge(
    maps: Mapping[Path, np.ndarray], truth: Mapping[Path, pairs.Pair], recall: float
) -> tuple[float, list[Judged]]:
    """Cuts all maps at the recall and compares them with their masks.

    Args:
      maps: probabilities ``[h, w]`` of each photograph.
      truth: of the same photographs; those that it lacks are left out.
      recall: least part of the tampered pixels of all of them that is to be found.

    Returns:
      The threshold, and one row a photograph.

    Raises:
      UserError: if a mask is bad, or there is no map of a tampered photograph.
    """
    masks = {path: _mask(truth[path]) for path in maps if path in truth}
    pixels = [maps[path][mask] for path, mask in masks.items()]
    tampered = np.concatenate(pixels) if pixels else np.zeros(0)
    if not tampered.size:
        raise UserError(
            "None of the tampered photographs could be read, so that no threshold can "
            "be chosen by what is found of them."
        )
    threshold = localization.recall_threshold(
        tampered, np.ones(tampered.shape, bool), recall
    )
    return threshold, [
        _judged(path, maps[path], mask, threshold) for path, mask in masks.items()
    ]


def _mask(pair: pairs.Pair) -> np.ndarray:
    return mask_images.PairSource([pair])[0]["target_mask"] > 127


def _judged(path: Path, map_: np.ndarray, mask: np.ndarray, threshold: float) -> Judged:
    marked = map_ >= threshold
    forged = bool(mask.any())
    nan = float("nan")
    return Judged(
        file=shown(path),
        tampered=float(mask.mean()),
        recall=float(marked[mask].mean()) if forged else nan,
        false_alarms=nan if mask.all() else float(marked[~mask].mean()),
        iou=float((marked & mask).sum() / (marked | mask).sum()) if forged else nan,
        auc=localization.auc(map_, mask),
    )


def write(
    output: Path,
    threshold: float,
    recall: float,
    rows: Sequence[Judged],
    errors: Mapping[Path, str],
) -> str:
    """Writes ``truth.csv`` and ``truth.json``; returns what they show, for people.

    Args:
      output: folder of the tables.
      threshold: at which photographs were compared.
      recall: by which it was chosen.
      rows: of the photographs.
      errors: of those that are left out, see ``Truth``.
    """
    authentic = [row for row in rows if not row.tampered]
    tampered = [row for row in rows if row.tampered]
    summary: dict[str, Any] = {
        "recall": recall,
        "threshold": threshold,
        "iou": _mean(tampered, "iou"),
        "auc": _mean(tampered, "auc"),
        "false_alarms_tampered": _mean(tampered, "false_alarms"),
        "false_alarms_authentic": _mean(authentic, "false_alarms"),
        "worst_authentic": max((r.false_alarms for r in authentic), default=None),
    }
    bad = {shown(path): error for path, error in errors.items()}
    empty = [""] * (len(Judged._fields) - 1)
    cells = [[*_cells(row), ""] for row in rows]
    cells += [[file, *empty, error] for file, error in bad.items()]
    write_table(output / "truth.csv", (*Judged._fields, "error"), cells)
    listed = [
        {key: None if value != value else value for key, value in r._asdict().items()}
        for r in rows
    ]
    content = summary | {"images": listed, "left_out": bad}
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(output / "truth.json", text + "\n")
    lines = [
        f"\nAt the threshold {threshold:.3f}, which finds {recall:.0%} of all tampered "
        f"pixels: IoU {summary['iou']:.3f} on {len(tampered)} tampered photographs, "
        f"of whose other pixels {_percent(summary['false_alarms_tampered'])} are "
        "marked."
    ]
    if authentic:
        lines.append(
            f"False alarms on {len(authentic)} authentic photographs: "
            f"{summary['false_alarms_authentic']:.1%} of the pixels on average, "
            f"{summary['worst_authentic']:.1%} on the worst."
        )
    if bad:
        lines.append(f"Left out, for their masks: {len(bad)}")
        lines += [f"  {error}" for error in bad.values()]
    return "\n".join([*lines, f"By photograph: {output / 'truth.csv'}"])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _mean(rows: Sequence[Judged], name: str) -> float | None:
    """Averages over the photographs for which a score is defined."""
    value = localization.mean(np.array([getattr(row, name) for row in rows]))
    return None if np.isnan(value) else value


def _cells(row: Judged) -> list[str]:
    return [
        row.file,
        *("" if value != value else f"{value:.6f}" for value in row[1:]),
    ]
