"""Detectors of forged clips by kind of forgery, seen in training and not.

Beside the head's score stand what the student's correlation and the teachers'
disagreement tell alone. Official protocol, and thresholds from held-out real clips.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxkd.core.source import ArraySource, Source
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.evaluators.clips import figures, noise
from jaxkd.metrics import clips
from jaxkd.metrics.classification import auc
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean
from jaxkd.report.style import line_styles, themes

FAR = 0.05  # false alarms at which thresholds are calibrated
RESAMPLES = 500
# Targets that vary less than this teach nothing.
FLAT = 0.005
SEEN, UNSEEN, ALARMS = "seen", "unseen", "false alarms"
ROBUSTNESS = "Robustness to noise on the sound"
SWEPT = 40  # clips of each kind that are disturbed

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


def evaluate(
    trained: TrainedStudy, noise_snrs: Sequence[float] = ()
) -> EvaluationReport:
    """Scores every member on every kind of clips.

    Args:
      trained: members whose outputs hold ``logits`` and ``correlation``. Test examples
        hold ``label`` and ``kind``; a source may name its kinds in ``kind_names``, and
        return the sound of example i by ``wave(i)``.
      noise_snrs: signal-to-noise ratios, in dB, at which some of the clips are scored
        again with noise on their sound; needs ``wave``.
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
    tables = [
        _auc_table(found, groups, seen, members, labels),
        _baseline_table(members, labels, groups, seen),
        _official_table(members, labels, groups),
        _threshold_table(members, labels, groups),
    ]
    snrs = sorted(set(noise_snrs), reverse=True)
    # Students of one run that are tested with other noise have other figures.
    stem = "-".join(["clips", *(f"{snr:g}dB" for snr in snrs)])
    drawn = [_figure(trained, stem, found, groups, seen)]
    scores = {
        student: {f"auc_{key}": [row[key] for row in rows] for key in rows[0]}
        for student, rows in found.items()
    }
    if snrs and not hasattr(trained.dataset.test, "wave"):
        note = "Not measured: the source of the test clips has no method wave."
        tables.append(Table(ROBUSTNESS, [["noise"]], note))
    elif snrs:
        sweep = _sweep(trained, (labels, kinds, names), seen, snrs)
        tables.append(_sweep_table(sweep, snrs))
        drawn.append(_sweep_figure(trained, f"{stem}-noise", sweep, snrs))
        for student, by_noise in sweep.items():
            scores[student] |= _sweep_scores(by_noise, snrs)
    return EvaluationReport(scores=scores, figures=drawn, tables=tables)


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


def _score(
    trained: TrainedStudy, member: Member, source: Source | None = None
) -> Scores:
    rows: dict[str, list[np.ndarray]] = {}
    for batch in trained.batches(source):
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


def _figure(
    trained: TrainedStudy, name: str, found, groups: Kinds, seen: set[str]
) -> Figure:
    for path, theme in themes(trained.folder / name):
        styles = line_styles(trained.student_order, theme)
        figures.aucs(path, theme, styles, found, list(groups), seen)
    caption = (
        "AUC of every seed, and their mean (bar). Kinds with a star were not among the "
        "training clips; the line is chance."
    )
    return Figure(name, "AUC by kind of forgery", caption)


def _sweep(trained: TrainedStudy, truth, seen: set[str], snrs: Sequence[float]):
    """Scores ``SWEPT`` clips of each kind, undisturbed and with each noise and ratio.

    Returns:
      student -> noise -> level -> seed -> AUC of seen and unseen kinds, and the share
      of real clips that are called fake. The first level is undisturbed.
    """
    labels, kinds, names = truth
    rows = np.concatenate(
        [_spread(np.flatnonzero(kinds == k)) for k in np.unique(kinds)]
    )
    source = trained.dataset.test
    waves = [source.wave(int(row)) for row in rows]  # type: ignore[attr-defined]
    groups = _groups(labels[rows], kinds[rows], names)

    def measure(member: Member, source: Source) -> dict[str, float]:
        head = _score(trained, member, source).head
        found = _aucs(head, labels[rows], groups, seen)
        parts = {part: found[part] for part in (SEEN, UNSEEN) if part in found}
        real = head[labels[rows] == 0]
        return parts | {ALARMS: float(np.mean(real > 0)) if len(real) else np.nan}

    # Infinitely below the signal, noise is nothing.
    clean = noise.Noisy(source, rows, waves, noise.WHITE, np.inf)
    found: dict[str, dict[str, list[list[dict[str, float]]]]] = {}
    for student, members in trained.by_student().items():
        first = [measure(member, clean) for member in members]
        found[student] = {kind: [first] for kind in noise.KINDS}
        for kind in noise.KINDS:
            for snr in snrs:
                noisy = noise.Noisy(source, rows, waves, kind, snr)
                found[student][kind].append([measure(m, noisy) for m in members])
    return found


def _spread(rows: np.ndarray) -> np.ndarray:
    """Chooses ``SWEPT`` rows at most, from all over them."""
    places = np.linspace(0, len(rows) - 1, min(SWEPT, len(rows))).astype(int)
    return rows[places]


def _sweep_table(sweep, snrs: Sequence[float]) -> Table:
    rows = [["", "noise", "", "none", *(f"{snr:g} dB" for snr in snrs)]]
    for student, by_noise in sweep.items():
        for kind, levels in by_noise.items():
            for part in levels[0][0]:
                cells = [format_mean([one[part] for one in own], 3) for own in levels]
                rows.append([student, kind, part, *cells])
    note = (
        "AUC of the head's score, averaged over kinds of forgery seen in training and "
        "not, and the share of real clips called fake (the larger mean logit); mean ± "
        "standard error over seeds. Noise on real and forged clips alike, "
        f"{SWEPT} of each kind at most. dB: signal-to-noise ratio over a clip. babble: "
        f"voices of {noise.VOICES} other test clips."
    )
    return Table(ROBUSTNESS, rows, note)


def _sweep_scores(by_noise, snrs: Sequence[float]) -> dict[str, list[float]]:
    return {
        f"auc_{part}_{kind}_{snr:g}dB": [one[part] for one in own]
        for kind, levels in by_noise.items()
        for snr, own in zip(snrs, levels[1:], strict=True)
        for part in own[0]
        if part != ALARMS
    }


def _sweep_figure(
    trained: TrainedStudy, name: str, sweep, snrs: Sequence[float]
) -> Figure:
    measured = next(iter(next(iter(sweep.values())).values()))[0][0]
    part = UNSEEN if UNSEEN in measured else SEEN
    values = {
        student: {
            kind: np.array([[one.get(part, np.nan) for one in own] for own in levels])
            for kind, levels in by_noise.items()
        }
        for student, by_noise in sweep.items()
    }
    ticks = ["none", *(f"{snr:g}" for snr in snrs)]
    for path, theme in themes(trained.folder / name):
        styles = line_styles(trained.student_order, theme)
        figures.robustness(path, theme, styles, values, ticks)
    caption = (
        f"Mean AUC over {part} kinds of forgery by signal-to-noise ratio in dB; bands "
        "span the seeds; the grey line is chance."
    )
    return Figure(name, ROBUSTNESS, caption)
