"""Detectors of forged clips by kind of forgery, seen in training and not.

Beside the head's score stand what the student's correlation and the teachers'
disagreement tell alone. Official protocol, and thresholds from held-out real clips.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxkd.core.source import ArraySource
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.metrics import clips
from jaxkd.metrics.classification import auc
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean
from jaxkd.report.style import WIDTH, canvas, line_styles, printable, themes

FAR = 0.05  # false alarms at which thresholds are calibrated
RESAMPLES = 500
# Targets that vary less than this teach nothing.
FLAT = 0.005
SEEN, UNSEEN = "seen", "unseen"

Kinds = dict[str, np.ndarray]


class Scores(NamedTuple):
    """Scores of one member on the test clips, higher for fakes.

    Attributes:
      logits: ``[clips, 2]``.
      correlation: minus the mean correlation of the embeddings, ``[clips]``.
      disagreement: the mean divergence of the teachers, or None.
    """

    logits: np.ndarray
    correlation: np.ndarray
    disagreement: np.ndarray | None

    @property
    def head(self) -> np.ndarray:
        """The difference of the logits, ``[clips]``."""
        return self.logits[:, 1] - self.logits[:, 0]


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Scores every member on every kind of clips.

    Args:
      trained: members whose outputs hold ``logits`` and ``correlation``. Test examples
        hold ``label`` and ``kind``; a source may name its kinds in ``kind_names``.
    """
    labels, kinds, names = _truth(trained)
    seen = _seen(trained, names)
    groups = _groups(labels, kinds, names)
    members = {
        student: [_score(trained, member) for member in rows]
        for student, rows in trained.by_student().items()
    }
    found = {
        student: [_aucs(one.head, labels, groups, seen) for one in rows]
        for student, rows in members.items()
    }
    tables = (
        _auc_table(found, groups, seen, members, labels),
        _baseline_table(members, labels, groups, seen),
        _official_table(members, labels, groups),
        _threshold_table(members, labels, groups),
    )
    figure = _figure(trained, found, groups, seen)
    scores = {
        student: {f"auc_{key}": [row[key] for row in rows] for key in rows[0]}
        for student, rows in found.items()
    }
    return EvaluationReport(scores=scores, figures=(figure,), tables=tables)


def _truth(trained: TrainedStudy) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    labels, kinds = [], []
    for batch in trained.batches():
        real = np.asarray(batch["mask"])
        labels.append(np.asarray(batch["label"])[real])
        kinds.append(np.asarray(batch["kind"])[real])
    kind = np.concatenate(kinds)
    names = getattr(trained.dataset.test, "kind_names", None)
    if names is None:
        names = tuple(f"kind {number}" for number in range(int(kind.max()) + 1))
    return np.concatenate(labels), kind, tuple(names)


def _seen(trained: TrainedStudy, names: Sequence[str]) -> set[str]:
    """Returns the kinds that are among the training clips."""
    source = trained.dataset.train(trained.seeds[0])
    if isinstance(source, ArraySource):
        found = np.unique(source.arrays["kind"])
    else:
        found = np.unique(getattr(source, "kinds", np.arange(len(names))))
    return {names[int(number)] for number in found}


def _groups(labels: np.ndarray, kinds: np.ndarray, names: Sequence[str]) -> Kinds:
    """Returns for each kind of fake the clips to test it on: its own and the real."""
    return {
        names[kind]: np.flatnonzero((labels == 0) | (kinds == kind))
        for kind in np.unique(kinds[labels == 1])
    }


def _score(trained: TrainedStudy, member: Member) -> Scores:
    rows: dict[str, list[np.ndarray]] = {}
    for batch in trained.batches():
        outputs, real = member.predict(batch), np.asarray(batch["mask"])
        present = np.asarray(batch["present"])
        rows.setdefault("logits", []).append(np.asarray(outputs["logits"])[real])
        for name in ("correlation", "disagreement"):
            if name in outputs:
                value = np.asarray(outputs[name], np.float64)
                mean = np.where(present, value, 0).sum(1) / present.sum(1).clip(1)
                rows.setdefault(name, []).append(mean[real])
    whole = {name: np.concatenate(parts) for name, parts in rows.items()}
    return Scores(whole["logits"], -whole["correlation"], whole.get("disagreement"))


def _aucs(
    scores: np.ndarray, labels: np.ndarray, groups: Kinds, seen: set[str]
) -> dict[str, float]:
    """Returns the AUC of each kind, and their means over seen and unseen ones."""
    each = {kind: auc(scores[at], labels[at] == 1) for kind, at in groups.items()}
    parts = {
        SEEN: [value for kind, value in each.items() if kind in seen],
        UNSEEN: [value for kind, value in each.items() if kind not in seen],
    }
    return each | {name: float(np.mean(v)) for name, v in parts.items() if v}


def _auc_table(found, groups: Kinds, seen: set[str], members, labels) -> Table:
    columns = [
        *groups,
        *(k for k in (SEEN, UNSEEN) if k in next(iter(found.values()))[0]),
    ]
    heads = [k if k in seen or k not in groups else f"{k}*" for k in columns]
    rows = [["", *heads, "unseen, every seed", "95 %"]]
    unseen = [kind for kind in groups if kind not in seen]
    for student, seeds in found.items():
        cells = [format_mean([one[k] for one in seeds], 3) for k in columns]
        each, interval = "", ""
        if unseen:
            each = " ".join(f"{one[UNSEEN]:.2f}" for one in seeds)
            low, high = _interval(members[student], labels, groups, unseen)
            interval = f"{low:.3f} to {high:.3f}"
        rows.append([student, *cells, each, interval])
    note = (
        "AUC of the head's score, each kind of forgery against the real clips; mean ± "
        "standard error over seeds. *: not among the training clips. 95 %: percentile "
        "bootstrap over test clips of the seeds' mean over unseen kinds."
    )
    if (labels == 1).all() or not (labels == 1).any():
        kind = "forged" if labels.any() else "real"
        note += f" All test clips are {kind}: AUC, EER and HTER are not defined."
    return Table("AUC by kind of forgery", rows, note)


def _interval(members, labels, groups: Kinds, unseen: Sequence[str]):
    rng = np.random.default_rng(0)
    real = np.flatnonzero(labels == 0)
    fakes = {kind: groups[kind][labels[groups[kind]] == 1] for kind in unseen}
    drawn = []
    for _ in range(RESAMPLES):
        kept = rng.choice(real, len(real))
        values = []
        for own in fakes.values():
            at = np.concatenate([kept, rng.choice(own, len(own))])
            values += [auc(one.head[at], labels[at] == 1) for one in members]
        drawn.append(np.mean(values))
    return np.percentile(drawn, [2.5, 97.5])


def _baseline_table(members, labels, groups: Kinds, seen: set[str]) -> Table:
    columns = list(groups)
    rows = [["", "score", *(k if k in seen else f"{k}*" for k in columns)]]
    note = "AUC without the head: what the correlation of the embeddings tells alone"

    def line(name: str, what: str, scores: Sequence[np.ndarray]) -> list[str]:
        each = [_aucs(one, labels, groups, seen) for one in scores]
        return [name, what, *(format_mean([e[k] for e in each], 3) for k in columns)]

    first = next(iter(members.values()))[0]
    if first.disagreement is not None:
        rows.append(line("teachers", "disagreement", [first.disagreement]))
        spread = float(np.std(first.disagreement))
        note += (
            ", and the teachers' disagreement, without any student. Over the clips it "
            f"varies by {spread:.3f}"
        )
        if spread < FLAT:
            note += f": below {FLAT}, which teaches nothing; raise target_scale"
    for student, own in members.items():
        rows.append(line(student, "correlation", [one.correlation for one in own]))
    return Table("Scores without the head", rows, f"{note}.")


def _official_table(members, labels, groups: Kinds) -> Table:
    rows = [["", "kind", *clips.OFFICIAL]]
    for student, own in members.items():
        for kind, at in groups.items():
            each = [clips.official(one.logits[at], labels[at]) for one in own]
            cells = [f"{np.mean([e[k] for e in each]):.3f}" for k in clips.OFFICIAL]
            rows.append([student, kind, *cells])
    note = (
        "Means over seeds. Predictions are the larger mean logit; AUC and EER are of "
        "the raw logit of fake; EER is not interpolated; HTER is at the argmax."
    )
    return Table("Protocol of the published code", rows, note)


def _threshold_table(members, labels, groups: Kinds) -> Table:
    """Calibrates on one half of the real clips, and measures on the other."""
    real = np.flatnonzero(labels == 0)
    tuning, held_out = real[::2], real[1::2]
    rows = [["", "false alarms", *(f"{kind} found" for kind in groups)]]
    for student, own in members.items():
        cells: dict[str, list[float]] = {}
        for one in own:
            limit = clips.threshold(one.head[tuning], FAR)
            alarms = one.head[held_out] > limit if len(real) > 1 else np.array([np.nan])
            cells.setdefault("", []).append(float(alarms.mean()))
            for kind, at in groups.items():
                fakes = at[labels[at] == 1]
                caught = (
                    float((one.head[fakes] > limit).mean()) if len(real) else np.nan
                )
                cells.setdefault(kind, []).append(caught)
        rows.append([student, *(format_mean(v, 2) for v in cells.values())])
    note = (
        f"Thresholds that {100 * FAR:.0f} % of {len(tuning)} held-out real clips "
        f"exceed, applied to {len(held_out)} others and to the fakes."
    )
    return Table("At a calibrated threshold", rows, note)


def _figure(trained: TrainedStudy, found, groups: Kinds, seen: set[str]) -> Figure:
    for path, theme in themes(trained.folder / "clips"):
        _draw(
            path, theme, line_styles(trained.student_order, theme), found, groups, seen
        )
    caption = (
        "AUC of every seed, and their mean (bar). Kinds with a star were not among the "
        "training clips; the line is chance."
    )
    return Figure("clips", "AUC by kind of forgery", caption)


def _draw(path, theme, styles: Mapping, found, groups: Kinds, seen: set[str]) -> None:
    kinds = list(groups)
    with canvas(path, (WIDTH, 3.6), theme, "constrained") as figure:
        axes = figure.subplots()
        axes.axhline(0.5, color=theme.grid)
        for index, (student, rows) in enumerate(found.items()):
            aside = 0.8 * ((index + 0.5) / len(found) - 0.5)
            color = styles[student].color
            for place, kind in enumerate(kinds):
                values = [row[kind] for row in rows]
                label = printable(student) if place == 0 else None
                at = place + aside
                axes.plot(
                    [at] * len(values), values, "o", ms=3, color=color, label=label
                )
                axes.plot([at - 0.05, at + 0.05], [np.mean(values)] * 2, color=color)
        shown = [kind if kind in seen else f"{kind}*" for kind in kinds]
        axes.set_xticks(range(len(kinds)), shown)
        axes.set(ylabel="AUC", ylim=(min(0.2, axes.get_ylim()[0]), 1.03))
        if kinds:
            axes.legend(loc="lower left", fontsize=8, ncols=3)
