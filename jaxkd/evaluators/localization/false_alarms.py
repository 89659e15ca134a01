"""Compares localisers by their false alarms, all cut at one recall.

IoU at one half also measures where a detector happens to put one half. Here each is cut
where it finds half of the pixels that a method filled in; what it then marks of
authentic images, and of those that are smooth in a region, are false alarms.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxkd.datasets import inpainted
from jaxkd.metrics import localization
from jaxkd.report.items import Table
from jaxkd.report.statistics import format_mean

RECALL = 0.5
AUTHENTIC, NEGATIVES, REGIONS = "authentic", "hard_negatives", "smoothed_regions"
_ALL = "all methods"

Groups = Mapping[str, np.ndarray]


def measure(
    maps: np.ndarray, truth: Mapping[str, np.ndarray], groups: Groups
) -> dict[str, dict[str, float]]:
    """Measures the part of untampered pixels that is marked at a recall of one half.

    Args:
      maps: scores of pixels, ``[n, h, w]``.
      truth: ``target_mask`` ``[n, h, w]`` in [0, 1]; ``region`` likewise where there
        are hard negatives.
      groups: name -> rows of ``maps``: inpainting methods, "authentic" images and the
        kinds of hard negatives.

    Returns:
      Method, and last "all methods" together where there are several -> ``authentic``,
      ``hard_negatives`` and ``smoothed_regions``, which counts only what was smoothed
      in the latter; those of which there are images.
    """
    masks = truth["target_mask"] > 0.5
    hard = _rows(groups, inpainted.NEGATIVES)
    untampered = {}
    if len(groups.get(inpainted.AUTHENTIC, ())):
        untampered[AUTHENTIC] = maps[groups[inpainted.AUTHENTIC]]
    if len(hard):
        untampered[NEGATIVES] = maps[hard]
        untampered[REGIONS] = maps[hard][truth["region"][hard] > 0.5]
    found = {}
    for method, at in _forged(groups).items():
        threshold = localization.recall_threshold(maps[at], masks[at], RECALL)
        found[method] = {
            name: float((scores >= threshold).mean())
            for name, scores in untampered.items()
        }
    return found


def table(
    systems: Mapping[str, Sequence[np.ndarray]],
    truth: Mapping[str, np.ndarray],
    groups: Groups,
    shown: Mapping[str, str],
) -> Table:
    """Tabulates false alarms by inpainting method.

    Args:
      systems: name -> maps of each seed; see ``measure``.
      truth: see ``measure``.
      groups: see ``measure``.
      shown: name of a method -> how it is written.
    """
    measured = {
        name: [measure(maps, truth, groups) for maps in runs]
        for name, runs in systems.items()
    }
    first = next(iter(measured.values()))[0]
    columns = list(next(iter(first.values()))) if first else []
    lines = [["", "", *(column.replace("_", " ") for column in columns)]]
    for method in first:
        for place, (system, runs) in enumerate(measured.items()):
            cells = [
                format_mean([run[method][column] for run in runs], 3)
                for column in columns
            ]
            name = shown.get(method, method) if place == 0 else ""
            lines.append([name, system, *cells])
    return Table(
        "False alarms at a recall of one half",
        lines,
        "Part of the pixels of untampered images that is marked where half of the "
        "pixels filled in by the method are found; mean ± standard error over seeds. "
        "Hard negatives are authentic but blurred, denoised, recompressed or rescaled "
        "in a region; smoothed regions are these alone.",
    )


def _forged(groups: Groups) -> dict[str, np.ndarray]:
    untampered = (inpainted.AUTHENTIC, *inpainted.NEGATIVES)
    forged = {name: at for name, at in groups.items() if name not in untampered}
    if len(forged) > 1:
        forged[_ALL] = np.concatenate(list(forged.values()))
    return forged


def _rows(groups: Groups, names: Sequence[str]) -> np.ndarray:
    chosen = [groups[name] for name in names if name in groups]
    return np.concatenate(chosen) if chosen else np.zeros(0, int)
