"""Evaluates localisers after training: methods, transfer, false alarms, robustness."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxkd.core.source import Source
from jaxkd.datasets import inpainted
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.evaluators.localization import (
    corruptions,
    false_alarms,
    figures,
    laplacian,
)
from jaxkd.evaluators.localization.laplacian import fast_iou
from jaxkd.metrics import localization
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean
from jaxkd.report.style import themes

# What they fill in is as rough as the rest: reported beside the methods that smooth,
# never averaged with them.
HARD = ("exemplar", inpainted.GENERATIVE)
_UNTAMPERED = (inpainted.AUTHENTIC, *inpainted.NEGATIVES)

_SHOWN = ("iou", "f1", "best_f1", "auc", "boundary_f")
_SWEPT = 40  # images of each method that are disturbed; fewer for many networks

Rows = dict[str, np.ndarray]


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Scores every member by inpainting method, and on disturbed images.

    Args:
      trained: members whose outputs hold ``logits``. Test examples may hold ``kind``,
        the method that filled them in; without it, all tampered ones are one group.
    """
    truth = _collect(trained)
    groups = _groups(trained, truth)
    if not _averaged(groups):
        return EvaluationReport(tables=(_nothing_to_find(groups),))
    maps = {
        student: [_probabilities(trained, member) for member in members]
        for student, members in trained.by_student().items()
    }
    scores = {
        student: [_score(p, truth["target_mask"]) for p in runs]
        for student, runs in maps.items()
    }
    baseline = laplacian.tuned(trained, truth)
    shown_names = _shown_names(trained, groups)
    sweep = _sweep(trained, groups)
    return EvaluationReport(
        scores={
            student: _summary(runs, maps[student], truth, groups)
            for student, runs in scores.items()
        },
        figures=_figures(trained, truth, maps, groups, sweep),
        tables=(
            _method_table(scores, baseline, truth, groups, shown_names),
            false_alarms.table(
                maps if baseline is None else {**maps, "Laplacian": [baseline.maps]},
                truth,
                groups,
                shown_names,
            ),
            _official_table(trained, truth, groups),
            _sweep_table(sweep),
        ),
    )


def _nothing_to_find(groups: Mapping[str, np.ndarray]) -> Table:
    """Tells why there are no scores; the run itself is finished."""
    rows = [["", "images"], *([name, str(len(at))] for name, at in groups.items())]
    note = (
        "No test image is tampered, so that there is nothing to find: IoU, false "
        "alarms and robustness are left out."
    )
    return Table("By inpainting method", rows, note)


def _figures(trained: TrainedStudy, truth: Rows, maps, groups, sweep):
    """Draws test images with their maps, and robustness."""
    folder, shown = trained.folder, _examples(groups)
    first = next(iter(maps.values()))[0]
    for path, theme in themes(folder / "localization"):
        figures.examples(path, theme, truth=truth, maps=first, rows=shown)
    for path, theme in themes(folder / "robustness"):
        figures.robustness(
            path, theme, student_order=trained.student_order, sweep=sweep
        )
    return (
        Figure(
            "localization",
            "Test images",
            "Image, inpainted region, probability; the first student and seed.",
        ),
        Figure(
            "robustness",
            "Robustness",
            "Mean IoU of tampered images that were disturbed before they were looked "
            "at; bands span the seeds. Methods that are reported apart are left out.",
        ),
    )


def _collect(trained: TrainedStudy) -> Rows:
    """Gathers what the test examples say of themselves, and their pixels."""
    kept: dict[str, list[np.ndarray]] = {}
    plain = trained.batches(view=lambda batch: batch)
    for batch in plain:
        real = np.asarray(batch["mask"])
        for name in ("image", "target_mask", "region", "label", "kind", "origin"):
            if name in batch:
                kept.setdefault(name, []).append(np.asarray(batch[name])[real])
    rows = {name: np.concatenate(parts) for name, parts in kept.items()}
    scaled = [name for name in ("target_mask", "region") if name in rows]
    return rows | {name: rows[name] / 255.0 for name in scaled}


def _groups(trained: TrainedStudy, truth: Rows) -> dict[str, np.ndarray]:
    """Returns the rows of each method's images, untampered ones last."""
    authentic = truth["label"] == 0
    groups: dict[str, np.ndarray] = {}
    if "kind" in truth:
        for name in (*inpainted.FORGED, *_UNTAMPERED):
            place = inpainted.KINDS.index(name)
            groups[name] = np.flatnonzero(truth["kind"] == place)
    else:
        groups["tampered"] = np.flatnonzero(~authentic)
        groups[inpainted.AUTHENTIC] = np.flatnonzero(authentic)
    return {name: rows for name, rows in groups.items() if len(rows)}


def _averaged(groups: Mapping[str, Any]) -> list[str]:
    """Lists the groups over which scores are averaged."""
    named = [name for name in groups if name not in (*HARD, *_UNTAMPERED)]
    return named or [name for name in groups if name not in _UNTAMPERED]


def _shown_names(trained: TrainedStudy, groups: Mapping[str, Any]) -> dict[str, str]:
    """Returns how methods are written: those that training did not see are marked."""
    source = trained.dataset.train(trained.seeds[0])
    if "kind" not in trained.dataset.example(source):
        return {}
    seen = {inpainted.KINDS[source[i]["kind"]] for i in range(len(source))}
    return {name: name if name in seen else f"{name}, unseen" for name in groups}


def _probabilities(
    trained: TrainedStudy, member: Member, source: Source | None = None
) -> np.ndarray:
    """Returns ``[images, height, width]``."""
    return np.concatenate(list(_predictions(trained, member, source)))


def _predictions(trained, member, source) -> Iterator[np.ndarray]:
    for batch in trained.batches(source):
        logits = member.predict(batch)["logits"][..., 0]
        yield np.asarray(jax.nn.sigmoid(logits))[np.asarray(batch["mask"])]


def _score(probabilities: np.ndarray, masks: np.ndarray) -> Rows:
    return localization.fixed(probabilities, masks)


def _group_means(rows: Rows, groups: Mapping[str, np.ndarray], metric: str):
    return {name: localization.mean(rows[metric][at]) for name, at in groups.items()}


def _summary(
    runs: Sequence[Rows], maps: Sequence[np.ndarray], truth: Rows, groups
) -> dict[str, list[float]]:
    """Returns a student's scores: metric -> one value per seed."""
    averaged = _averaged(groups)
    found: dict[str, list[float]] = {}
    for rows, probabilities in zip(runs, maps, strict=True):
        one = {}
        for metric in _SHOWN:
            means = _group_means(rows, groups, metric)
            one[f"macro_{metric}"] = float(np.mean([means[n] for n in averaged]))
        for name, value in _group_means(rows, groups, "iou").items():
            if name not in _UNTAMPERED:
                one[f"iou_{name}"] = value
        *_, alarms = false_alarms.measure(probabilities, truth, groups).values()
        one |= {f"alarms_{untampered}": value for untampered, value in alarms.items()}
        scores = localization.image_scores(probabilities)
        for name, value in localization.image_level(scores, truth["label"]).items():
            one[f"image_{name}"] = value
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return found


def _sweep(trained: TrainedStudy, groups) -> dict[str, dict[str, list[list[float]]]]:
    """Returns student -> disturbance -> level -> IoU of each seed.

    The images of the averaged groups, at most ``_SWEPT`` of each, and at least ten.
    """
    most = max(10, min(_SWEPT, 3 * _SWEPT // len(trained.members)))
    rows = np.concatenate([groups[name][:most] for name in _averaged(groups)])
    source = _Rows(trained.dataset.test, rows)
    found: dict[str, dict[str, list[list[float]]]] = {}
    for kind, levels in corruptions.GRID.items():
        for level in levels:
            disturbed = corruptions.Disturbed(source, kind, level)
            for student, members in trained.by_student().items():
                ious = [_iou_on(trained, member, disturbed) for member in members]
                by_kind = found.setdefault(student, {})
                by_kind.setdefault(kind, []).append(ious)
    return found


class _Rows:
    """Some rows of a source."""

    def __init__(self, source: Source, rows: np.ndarray):
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.source[int(self.rows[index])]


def _iou_on(trained: TrainedStudy, member: Member, source: Source) -> float:
    ious = []
    for batch in trained.batches(source):
        logits = np.asarray(member.predict(batch)["logits"])[..., 0]
        truth = np.asarray(batch["target_mask"]) > 0.5
        ious.append(fast_iou(logits >= 0, truth)[np.asarray(batch["mask"])])
    return float(np.concatenate(ious).mean())


def _examples(groups: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Chooses four images of each group, spread over it."""
    return {
        name: rows[np.linspace(0, len(rows) - 1, min(4, len(rows))).astype(int)]
        for name, rows in groups.items()
    }


def _method_table(scores, baseline, truth: Rows, groups, shown_names) -> Table:
    heading = ["", "images", "", "IoU", "F1", "best F1", "AUC", "boundary F", "marked"]
    lines: list[list[str]] = [heading]
    ones = localization.fixed(np.ones(truth["target_mask"].shape), truth["target_mask"])
    systems: dict[str, Sequence[Rows]] = dict(scores)
    about = "No training image is tampered, by which the Laplacian could be tuned."
    if baseline is not None:
        cut = baseline.threshold
        smooth = localization.fixed(baseline.maps, truth["target_mask"], cut)
        systems["Laplacian"] = [smooth]
        about = (
            "Laplacian: smoothed absolute Laplacian, width and threshold chosen on "
            "training images."
        )
    systems["all pixels"] = [ones]
    for group, at in groups.items():
        for system, runs in systems.items():
            cells = []
            for metric in (*_SHOWN, "flagged"):
                values = [localization.mean(rows[metric][at]) for rows in runs]
                cells.append("–" if np.isnan(values).any() else format_mean(values, 3))
            first = system == next(iter(systems))
            count = str(len(at)) if first else ""
            name = shown_names.get(group, group) if first else ""
            lines.append([name, count, system, *cells])
    return Table(
        "By inpainting method",
        lines,
        "Threshold 0.5, tampered class; mean ± standard error over seeds. marked: "
        f"fraction of pixels marked. {about} {_interval(scores, truth, groups)}",
    )


def _interval(scores, truth: Rows, groups) -> str:
    """Describes how much the test images themselves leave open."""
    student, runs = next(iter(scores.items()))
    rows = np.concatenate([groups[name] for name in _averaged(groups)])
    ious = np.mean([run["iou"][rows] for run in runs], axis=0)
    # Crops of one photograph are alike.
    origins = truth["origin"][rows] if "origin" in truth else None
    low, high = localization.bootstrap(ious, origins)
    names, what = ", ".join(_averaged(groups)), "images"
    if origins is not None:
        what = f"{len(np.unique(origins))} photographs"
    return (
        f"IoU of {student} over {names}: [{low:.3f}, {high:.3f}], 95 % interval of the "
        f"bootstrap over {what}."
    )


def _official_table(trained: TrainedStudy, truth: Rows, groups) -> Table:
    """Scores members by the protocol of the published code."""
    lines = [["", "", "IoU", "F1 (both classes)", "AUC", "AUC defined"]]
    for student, members in trained.by_student().items():
        logits = [_logit(_probabilities(trained, member)) for member in members]
        runs = [localization.official(z, truth["target_mask"]) for z in logits]
        for group, at in groups.items():
            if group in _UNTAMPERED:
                continue
            cells = [
                format_mean([localization.mean(run[metric][at]) for run in runs], 3)
                for metric in ("iou", "f1", "auc")
            ]
            defined = int(np.isfinite(runs[0]["auc"][at]).sum())
            lines.append([student, group, *cells, f"{defined} of {len(at)}"])
    return Table(
        "Protocol of the published code",
        lines,
        "Maps are stretched to [0, 1] image by image before they are cut at one half. "
        "Not comparable with the table above.",
    )


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.log(p / (1 - p))


def _sweep_table(sweep) -> Table:
    lines = [["", "", *[""] * max(map(len, corruptions.GRID.values()))]]
    for student, by_kind in sweep.items():
        for kind, levels in by_kind.items():
            pad = [""] * (len(lines[0]) - 2 - len(levels))
            names = [f"{level:g}" for level in corruptions.GRID[kind]]
            lines.append([student, corruptions.LABELS[kind], *names, *pad])
            lines.append(["", "IoU", *[f"{np.mean(v):.3f}" for v in levels], *pad])
    note = "Mean IoU over seeds and images, without methods that are reported apart."
    return Table("Robustness", lines, note)
