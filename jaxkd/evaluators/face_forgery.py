"""Scores of forgery detectors by method, by attribute and by region, and of videos."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy, without
from jaxkd.metrics import forgery
from jaxkd.metrics.classification import auc
from jaxkd.report.items import Table
from jaxkd.report.statistics import format_mean

REAL = "real"
_NAN = float("nan")


class Truth(NamedTuple):
    """What is known of the test images.

    Attributes:
      fake: bool ``[images]``.
      codes: ``[images, nodes]``, 2 where unknown.
      method: name of each image's method, ``"real"`` for none.
      unseen: bool ``[images]``, whether no training image was made so.
      nodes: names of the labels.
      levels: nodes of the attributes, and of the regions.
      keys: (method, video) of each image, or None.
    """

    fake: np.ndarray
    codes: np.ndarray
    method: np.ndarray
    unseen: np.ndarray
    nodes: tuple[str, ...]
    levels: tuple[tuple[int, ...], tuple[int, ...]]
    keys: Sequence[tuple[str, str]] | None


class Prediction(NamedTuple):
    """What one member makes of the test images.

    Attributes:
      odds: ``[images]``, log-odds of being fake.
      nodes: ``[images, nodes]``, probabilities; NaN where it has no opinion.
    """

    odds: np.ndarray
    nodes: np.ndarray


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Scores every member of a study on the test images.

    Protocol 1 is the AUC of methods that no training image was made by. Protocol 2 is
    that of an attribute which a student was trained without (``hold_out``), by such
    methods: the scores ``auc_<attribute>_unseen``.

    Args:
      trained: members whose outputs hold ``fake_logit`` and, of some heads, ``nodes``.
    """
    truth = collect(trained)
    scores: dict[str, dict[str, list[float]]] = {}
    for student, members in trained.by_student().items():
        rows = [measure(predict(trained, member), truth) for member in members]
        scores[student] = {name: [row[name] for row in rows] for name in rows[0]}
    tables = (
        _protocol_table(scores, truth),
        _group_table(scores, truth),
        _label_table(scores, truth),
    )
    return EvaluationReport(scores=without(scores, "accuracy"), tables=tables)


def collect(trained: TrainedStudy) -> Truth:
    """Gathers labels and methods of the test images."""
    kept: dict[str, list[np.ndarray]] = {"code": [], "manipulation": []}
    for batch in trained.batches(view=lambda batch: batch):
        real = np.asarray(batch["mask"])
        for name, parts in kept.items():
            parts.append(np.asarray(batch[name])[real])
    codes = np.concatenate(kept["code"])
    source = trained.dataset.test
    names = np.array(getattr(source, "names", (REAL,)))
    keys = getattr(source, "keys", None)
    if keys is not None:  # what is one class to the network may be several methods
        method = np.array([method for method, _ in keys])
    else:
        method = names[np.concatenate(kept["manipulation"])]
    known = set(names[: getattr(source, "trained", len(names))].tolist())
    nodes = trained.dataset.info.class_names
    regions = tuple(range(len(nodes) - 6, len(nodes)))  # of both graphs
    return Truth(
        fake=codes[:, 0] == 1,
        codes=codes,
        method=method,
        unseen=~np.isin(method, list(known)),
        nodes=nodes,
        levels=(tuple(range(1, regions[0])), regions),
        keys=keys,
    )


def predict(trained: TrainedStudy, member: Member) -> Prediction:
    """Returns what a member makes of the test images."""
    odds, nodes = [], []
    for batch in trained.batches():
        outputs, real = member.predict(batch), np.asarray(batch["mask"])
        odds.append(np.asarray(outputs["fake_logit"], np.float64)[real])
        silent = np.full((len(odds[-1]), len(trained.dataset.info.class_names)), _NAN)
        given = outputs.get("nodes")
        nodes.append(silent if given is None else np.asarray(given, np.float64)[real])
    return Prediction(np.concatenate(odds), np.concatenate(nodes))


def measure(prediction: Prediction, truth: Truth) -> dict[str, float]:
    """Computes all scores of one member: name -> value, NaN where undefined."""
    odds, fake = prediction.odds, truth.fake
    probability = 1 / (1 + np.exp(-odds))
    found = {name: v for name, v in forgery.binary_scores(probability, fake).items()}
    found["auc"] = auc(odds, fake)  # probabilities may tie where log-odds do not
    by_method = forgery.auc_by_group(odds, fake, truth.method)
    unseen = set(truth.method[truth.unseen & fake].tolist())
    seen = fake & ~truth.unseen
    found["auc_seen"] = auc(odds[~fake | seen], fake[~fake | seen])
    new = [value for name, value in by_method.items() if name in unseen]
    found["auc_unseen"] = float(np.mean(new)) if new else _NAN
    found["auc_worst"] = min(new) if new else _NAN
    found |= {f"auc_{name}": value for name, value in by_method.items()}
    for node in truth.levels[0]:
        has = truth.codes[:, node] == 1
        for suffix, rows in (("", has), ("_unseen", has & truth.unseen)):
            chosen, name = ~fake | rows, f"{truth.nodes[node]}{suffix}"
            found[f"auc_{name}"] = auc(odds[chosen], fake[chosen])
            right = (odds >= 0) == fake
            found[f"accuracy_{name}"] = (
                float(right[chosen].mean()) if rows.any() else _NAN
            )
    if truth.keys is not None:
        means, labels = forgery.video_means(probability, fake, truth.keys)
        found["video_auc"] = auc(means, labels)
    return found | _labels(prediction, truth)


def _labels(prediction: Prediction, truth: Truth) -> dict[str, float]:
    """Scores attributes and regions, where the member has an opinion.

    Over real images and those of methods that were trained on: the question is here
    what is read off, not what is transferred.
    """
    rows = ~(truth.unseen & truth.fake)
    codes = truth.codes[rows]
    f1 = forgery.label_f1(prediction.nodes[rows] >= 0.5, codes)
    f1 = np.where(np.isnan(prediction.nodes).all(axis=0), np.nan, f1)
    found = {f"f1_{truth.nodes[i]}": float(f1[i]) for i in range(1, len(f1))}
    names = ("attribute_f1", "region_f1")
    for name, level in zip(names, truth.levels, strict=True):
        values = f1[list(level)]
        known = values[np.isfinite(values)]
        found[name] = float(known.mean()) if known.size else _NAN
    return found


def _protocol_table(scores: Mapping[str, Mapping], truth: Truth) -> Table:
    columns = {
        "accuracy": "accuracy",
        "auc_seen": "AUC, seen methods",
        "auc_unseen": "AUC, unseen: mean",
        "auc_worst": "AUC, unseen: worst",
        "eer": "EER",
        "ap": "AP",
        "calibration_error": "calibration error",
    }
    if truth.keys is not None:
        columns["video_auc"] = "AUC, videos"
    lines = [["", *columns.values()]]
    for student, found in scores.items():
        lines.append([student, *(format_mean(found[name], 3) for name in columns)])
    note = (
        "Mean ± standard error over seeds. Unseen: methods that no training image was "
        "made by (protocol 1); mean and worst over these methods. The EER is "
        "interpolated between two thresholds."
    )
    if truth.fake.all() or not truth.fake.any():
        kind = "fake" if truth.fake.all() else "real"
        note += f" All test images are {kind}: AUC, EER and AP are not defined."
    return Table("Forgery detection", lines, note)


def _group_table(scores: Mapping[str, Mapping], truth: Truth) -> Table:
    methods = list(dict.fromkeys(truth.method[truth.fake].tolist()))
    new = set(truth.method[truth.unseen].tolist())
    groups = {name: f"{name}{' (unseen)' if name in new else ''}" for name in methods}
    for node in truth.levels[0]:
        name = truth.nodes[node]
        groups |= {name: name, f"{name}_unseen": f"{name}, unseen methods"}
    lines = [["AUC against real images", *scores]]
    for name, title in groups.items():
        cells = [format_mean(found[f"auc_{name}"], 3) for found in scores.values()]
        lines.append([title, *cells])
        if name not in methods:
            own = [found[f"accuracy_{name}"] for found in scores.values()]
            lines.append([f"{title}: accuracy", *(format_mean(v, 3) for v in own)])
    note = (
        "Mean ± standard error over seeds, by method and by altered attribute. "
        "Accuracy is at a probability of one half, over these fakes and all real ones."
    )
    return Table("By method and attribute", lines, note)


def _label_table(scores: Mapping[str, Mapping], truth: Truth) -> Table:
    rows = ~(truth.unseen & truth.fake)
    prior = forgery.prior_f1(truth.codes[rows])
    chosen = {s: f for s, f in scores.items() if np.isfinite(f["region_f1"]).all()}
    lines = [["F1", "prior", *chosen]]
    for i in range(1, len(prior)):
        cells = [
            format_mean(found[f"f1_{truth.nodes[i]}"], 3) for found in chosen.values()
        ]
        lines.append([truth.nodes[i], format_mean([prior[i]], 3), *cells])
    for name, level in zip(("attribute", "region"), truth.levels, strict=True):
        known = prior[list(level)]
        mean = float(np.nanmean(known)) if np.isfinite(known).any() else _NAN
        cells = [format_mean(found[f"{name}_f1"], 3) for found in chosen.values()]
        lines.append([f"mean over {name}s", format_mean([mean], 3), *cells])
    note = (
        "At a probability of one half, over real images and methods that were trained "
        "on. prior: the best that needs no look at the image, all positive."
    )
    return Table("What was altered", lines, note)
