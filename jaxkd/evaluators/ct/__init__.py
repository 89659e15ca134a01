"""What is found out about CT classifiers after training, on the host.

Scores of the test scans beside those of two classifiers of plain intensities and, where
lesions are known, of two that read the lesions' true masks; heat maps beside the plain
intensity of a voxel, in the whole lungs and, where the data have them, against
distractors of the same brightness; and how far the scores fall when scans are
disturbed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxkd.core.types import EXPLAIN
from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.evaluators.ct import baselines as nlran_baselines
from jaxkd.evaluators.ct import figures as nlran_figures
from jaxkd.evaluators.ct.corruptions import DISTURBANCES, UNDISTURBED
from jaxkd.metrics import classification, heatmaps
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean

SCORES = ("auc", "accuracy", "precision", "recall", "f1", "ece")
HEAT = ("auc", "auc_either", "pointing", "share", "iou", "sharpness")
INTENSITY, BLURRED = "intensity", "intensity, blurred"
BLUR = 1.5  # voxels, standard deviation
LUNGS, MATCHED = "lungs", "matched"  # where heat maps are scored


class _Said(NamedTuple):
    """What all seeds of a student say of the test scans, ``[seeds, scans, ...]``."""

    probabilities: np.ndarray
    maps: dict[str, np.ndarray]


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Scores classifiers, heat maps and robustness of all students."""
    fields = _fields(trained)
    said = {name: _ask(trained, name) for name in trained.by_student()}
    baselines = nlran_baselines.probabilities(trained.dataset)
    oracles = nlran_baselines.oracles(trained.dataset)
    robust = {name: _disturbed(trained, name) for name in said}
    heat = {where: _heat_scores(said, fields, where) for where in (LUNGS, MATCHED)}
    return EvaluationReport(
        scores={
            name: _member_scores(one, fields["label"])
            | _heat_columns(heat[LUNGS].get(name, {}), "")
            | _heat_columns(heat[MATCHED].get(name, {}), f"_{MATCHED}")
            for name, one in said.items()
        },
        tables=[
            _score_table(said, baselines, oracles, fields),
            *_heat_tables(heat),
            _robust_table(robust),
        ],
        figures=_figures(trained, said, fields, robust),
    )


def _fields(trained: TrainedStudy) -> dict[str, np.ndarray]:
    """Collects labels, patients and, where there are, masks of the test scans."""
    wanted = ("label", "patient", "lesion", "lungs", "distractors")
    batches = list(trained.batches())
    found = {
        name: np.concatenate(
            [np.asarray(b[name])[np.asarray(b["mask"])] for b in batches]
        )
        for name in wanted
        if name in batches[0]
    }
    if {"lesion", "lungs"} <= set(found):
        # Only those scans are kept whose heat maps can be scored.
        image = [np.asarray(b["image"])[np.asarray(b["mask"])] for b in batches]
        sick = np.flatnonzero(found["lesion"].any((1, 2, 3)))
        found[INTENSITY] = np.concatenate(image)[sick][..., 0]
        found["sick"] = sick
        for name in {"lesion", "lungs", "distractors"} & set(found):
            found[name] = found[name][sick]
        if "distractors" in found and found["distractors"].any():
            found[MATCHED] = found["lesion"] | found["distractors"]
    return found


def _ask(trained: TrainedStudy, student: str) -> _Said:
    """Runs all seeds of a student over the test scans, with heat maps."""

    def view(batch):
        return trained.view.evaluate(batch) | {EXPLAIN: jnp.zeros(())}

    probabilities: list[np.ndarray] = []
    maps: dict[str, list[np.ndarray]] = {}
    for member in trained.by_student()[student]:
        logits: list[np.ndarray] = []
        own: dict[str, list[np.ndarray]] = {}
        for batch in trained.batches(view=view):
            outputs, real = member.predict(batch), np.asarray(batch["mask"])
            logits.append(np.asarray(outputs["logits"])[real])
            scored = real & _sick(batch)
            for name, heat in outputs.get("heat", {}).items():
                own.setdefault(name, []).append(np.asarray(heat)[scored])
        probabilities.append(classification.softmax(np.concatenate(logits)))
        for name, heat in own.items():
            maps.setdefault(name, []).append(np.concatenate(heat))
    stacked = {name: np.stack(heat) for name, heat in maps.items()}
    return _Said(np.stack(probabilities), stacked)


def _sick(batch: Mapping[str, Any]) -> np.ndarray:
    """Tells which scans have a lesion whose place is known."""
    if "lesion" not in batch:
        return np.zeros(len(batch["mask"]), bool)
    return np.asarray(np.asarray(batch["lesion"]).any((1, 2, 3)))


def _disturbed(trained: TrainedStudy, student: str) -> dict[str, list[float]]:
    """Returns the macro AUC of each seed for every disturbance."""
    found: dict[str, list[float]] = {}
    for name, disturb in DISTURBANCES.items():

        def view(batch, disturb=disturb):
            return trained.view.evaluate(batch | {"image": disturb(batch["image"])})

        batches = [
            (batch, np.asarray(batch["mask"])) for batch in trained.batches(view=view)
        ]
        labels = np.concatenate([np.asarray(b["label"])[real] for b, real in batches])
        for member in trained.by_student()[student]:
            logits = [
                np.asarray(member.predict(b)["logits"])[real] for b, real in batches
            ]
            p = classification.softmax(np.concatenate(logits))
            found.setdefault(name, []).append(classification.macro_auc(p, labels))
    return found


def _member_scores(said: _Said, labels) -> dict[str, list[float]]:
    rows = [classification.summary(p, labels) for p in said.probabilities]
    scores = {
        name: [row[name] for row in rows] for name in SCORES if name != "accuracy"
    }
    for index, name in enumerate(("sensitivity", "specificity")):
        scores[name] = [
            classification.sensitivity_specificity(p, labels)[index]
            for p in said.probabilities
        ]
    return scores


def _heat_columns(
    heat: Mapping[str, Sequence[Mapping[str, float]]], where: str
) -> dict[str, list[float]]:
    """Returns the scores of a student's maps that join its others, by seed."""
    return {
        f"{name}{where}_{key}": [one[key] for one in seeds]
        for name, seeds in heat.items()
        for key in ("auc", "pointing")
    }


def _heat_scores(
    said: Mapping[str, _Said], fields, where: str
) -> dict[str, dict[str, list]]:
    """Returns student -> map -> for each seed the mean of each score.

    Args:
      said: the students' maps.
      fields: see ``_fields``.
      where: the mask in which maps are scored; without it there are no scores.
    """
    if INTENSITY not in fields or where not in fields:
        return {}
    plain = {INTENSITY: fields[INTENSITY][None], BLURRED: _blurred(fields)[None]}
    everyone = {"": plain} | {name: one.maps for name, one in said.items()}
    found: dict[str, dict[str, list]] = {
        student: {name: [] for name in maps} for student, maps in everyone.items()
    }
    seeds = [
        (found[student][name], one)
        for student, maps in everyone.items()
        for name in maps
        for one in maps[name]
    ]
    what = f"scoring heat maps ({where})"
    for scores, one in tqdm(seeds, what, unit="map", disable=None):
        scores.append(_mean_scores(one, fields, where))
    return found


def _blurred(fields) -> np.ndarray:
    """Returns the intensity as a map as coarse as a network's."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(fields[INTENSITY], (0, BLUR, BLUR, BLUR))


def _mean_scores(maps: np.ndarray, fields, where: str) -> dict[str, float]:
    """Averages the scores of one seed's maps over the scans with lesions."""
    each = [
        heatmaps.scores(heat, lesion, region)
        for heat, lesion, region in zip(
            maps, fields["lesion"], fields[where], strict=True
        )
    ]
    table = np.array([one for one in each if one is not None])
    result = dict(zip(HEAT, table.mean(0).tolist(), strict=True))
    result["constant"] = float(np.mean([heatmaps.is_constant(heat) for heat in maps]))
    return result


def _score_table(said, baselines, oracles, fields) -> Table:
    labels, groups = fields["label"], fields.get("patient")
    everyone = {name: p[None] for name, p in (baselines | oracles).items()}
    everyone |= {name: one.probabilities for name, one in said.items()}
    heading = ["", "AUC", "95 %", "accuracy", "precision", "recall", "F1", "ECE"]
    rows = [heading]
    for name, seeds in everyone.items():
        each = [classification.summary(p, labels) for p in seeds]
        low, high = classification.bootstrap(
            *(_mean_auc, np.moveaxis(seeds, 0, 1), labels, groups), resamples=1000
        )
        cells = [format_mean([one[key] for one in each], 3) for key in SCORES]
        rows.append([name, cells[0], f"{low:.3f} to {high:.3f}", *cells[1:]])
    note = (
        "AUC, precision, recall and F1: mean over classes, each against the rest. ±: "
        "standard error over seeds. 95 %: percentile bootstrap of the seeds' mean "
        f"AUC over {'patients' if groups is not None else 'scans'}. The first rows are "
        "logistic regressions on plain intensities"
        + (
            "; those of masks read where the lesions truly are, which no network is "
            "told: they tell what there is to find. "
            if oracles
            else ". "
        )
        + _verdict(said, baselines, labels)
    )
    return Table("Test scans", rows, note)


def _mean_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the macro AUC, averaged over seeds ``[scans, seeds, classes]``."""
    seeds = np.moveaxis(probabilities, 1, 0)
    return float(np.mean([classification.macro_auc(p, labels) for p in seeds]))


def _verdict(said: Mapping[str, _Said], baselines, labels) -> str:
    """Says which differences exceed twice the spread of the seeds."""
    best = max(baselines.values(), key=lambda p: classification.macro_auc(p, labels))
    floor = classification.macro_auc(best, labels)
    auc = {
        name: [classification.macro_auc(p, labels) for p in one.probabilities]
        for name, one in said.items()
    }
    top = max(auc, key=lambda name: np.mean(auc[name]))
    text = (
        f"Best of them by AUC: {floor:.3f}; {top} is {_gap(auc[top], floor)} above it."
    )
    others = [name for name in auc if name != top]
    if others:
        rival = max(others, key=lambda name: np.mean(auc[name]))
        gap = np.mean(auc[top]) - np.mean(auc[rival])
        sd = max(
            np.std(auc[name], ddof=1) if len(auc[name]) > 1 else np.inf
            for name in (top, rival)
        )
        clear = "more" if gap > 2 * sd else "not more"
        text += (
            f" {top} beats {rival}, the next, by {gap:.3f}: {clear} than twice the "
            "spread of the seeds."
        )
    return text


def _gap(values: Sequence[float], floor: float) -> str:
    return f"{np.mean(values) - floor:.3f}"


def _heat_tables(heat: Mapping[str, Mapping[str, Mapping[str, list]]]) -> list[Table]:
    tables = []
    if heat[LUNGS]:
        rows = _heat_rows(heat[LUNGS])
        tables.append(Table("Heat maps against lesions", rows, _HEAT_NOTE))
    if heat[MATCHED]:
        title = "Heat maps: lesions among distractors of the same brightness"
        tables.append(Table(title, _heat_rows(heat[MATCHED]), _MATCHED_NOTE))
    return tables


def _heat_rows(heat: Mapping[str, Mapping[str, list]]) -> list[list[str]]:
    heading = [
        "",
        "map",
        "AUC",
        "AUC or 1 − AUC",
        "pointing",
        "share",
        "IoU",
        "sharpness",
    ]
    rows = [heading]
    for student, maps in heat.items():
        for name, seeds in maps.items():
            cells = [
                format_mean([one[key] for one in seeds], 4 if key == "sharpness" else 3)
                for key in HEAT
            ]
            flat = sum(one["constant"] for one in seeds) / len(seeds)
            label = f"{name} ({100 * flat:.0f} % constant)" if flat else name
            rows.append([student or "plain voxels", label, *cells])
    return rows


_HEAT_NOTE = (
    "Mean over the scans with lesions, in the lungs. AUC: how often a voxel of a "
    "lesion is hotter than another; 0.5 is chance. The larger of it and 1 − AUC is "
    "taken for each scan, so that even chance lies above 0.5. Pointing: the "
    "hottest voxel is in a lesion. Share: of the heat. IoU: of the lesions with as "
    "many of the hottest voxels. Sharpness depends on the grid and does not tell "
    "whether it is right. Attention does not depend on the class and may mark "
    "lesions by low values. A map that does not beat the plain intensity of the "
    "voxels shows nothing that the scan does not."
)
_MATCHED_NOTE = (
    "As above, but of all voxels only those of lesions and of distractors count, which "
    "are equally bright: by its brightness no voxel tells what it belongs to. Blurred: "
    "the intensity smoothed as much as a network's map is coarse, which tells compact "
    "things from thin ones; what a map adds is what it has beyond that row."
)


def _robust_table(robust: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    rows = [["", *DISTURBANCES]]
    for student, found in robust.items():
        rows.append([student, *(format_mean(found[name], 3) for name in DISTURBANCES)])
    note = (
        "Macro AUC. Noise: its standard deviation. Slices: one in so many is kept, the "
        "others are interpolated. Offset: added to all Hounsfield units."
    )
    return Table("Disturbed scans", rows, note)


def _figures(trained: TrainedStudy, said, fields, robust) -> list[Figure]:
    folder = trained.folder
    figures = [
        nlran_figures.robustness(folder, trained.student_order, robust, UNDISTURBED)
    ]
    shown = [name for name in said if "attention" in said[name].maps] or [
        name for name in said if said[name].maps
    ]
    if INTENSITY in fields and shown:
        student = shown[-1]
        first = {name: heat[0] for name, heat in said[student].maps.items()}
        classes = [
            trained.dataset.info.class_names[label]
            for label in fields["label"][fields["sick"]]
        ]
        figures.append(nlran_figures.montage(folder, student, first, fields, classes))
    return figures
