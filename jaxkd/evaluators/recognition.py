"""Evaluates embeddings: the data set's pairs verified in folds, and neighbours."""

import functools
from collections.abc import Callable

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Spec
from jaxkd.evaluators import roc
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.metrics import retrieval, verification
from jaxkd.readers.identity_pairs import Pairs, pairs_of
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean
from jaxkd.views.mixed_resolution import reduced

FARS = (0.001, 0.01, 0.1)
KS = (1, 2, 4, 8)
THRESHOLD = "threshold"


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Verifies the test's pairs and looks for neighbours."""
    embeddings, labels = embed(trained)
    pairs = pairs_of(trained.dataset.test)
    scores: dict[str, dict[str, list[float]]] = {}
    for student, members in trained.by_student().items():
        found = [measure(embeddings[one.student, one.seed], labels, pairs)
                 for one in members]  # fmt: skip
        scores[student] = {name: [one[name] for one in found] for name in found[0]}
    figures = []
    if pairs is not None:
        _draw_curves(trained, embeddings, pairs)
        caption = "Share of pairs of one identity accepted, by that of two; first seed."
        figures.append(Figure("verification", "Verification", caption))
    return EvaluationReport(scores, figures, [table(scores)])


def by_side(
    spec: Spec, sides: tuple[int, ...]
) -> Callable[[TrainedStudy], EvaluationReport] | None:
    """Returns an evaluator that also verifies large images against small ones.

    The first image of a pair stays as it is, the second is reduced to each side and
    enlarged again: a sharp gallery, a blurred probe. Both go through the network that
    is evaluated, so that it has to read images of the full size.

    Args:
      spec: the run.
      sides: in pixels; none means None.

    Raises:
      UserError: if a side is larger than the images, or the network reads others.
    """
    if not sides:
        return None
    own, full = spec.image_shape[-2], spec.fields["image"].shape[-2]
    if own != full or min(sides) < 1 or max(sides) > full:
        raise UserError(
            f"sides is {tuple(sides)}, expected 1 to {full}, for a network that reads "
            f"images of {full} pixels; this one reads {own}."
        )
    return _by_side(tuple(sorted(sides)), spec.input_key)


# Cached, so that all students of a run are evaluated together.
@functools.cache
def _by_side(sides: tuple[int, ...], input_key: str):
    def evaluate_sides(trained: TrainedStudy) -> EvaluationReport:
        report, pairs = evaluate(trained), pairs_of(trained.dataset.test)
        if pairs is None:
            return report
        sharp, _ = embed(trained, _shown(trained, input_key, None))
        scores = {student: dict(values) for student, values in report.scores.items()}
        only: dict[str, dict[str, list[float]]] = {student: {} for student in scores}
        for side in sides:
            small, _ = embed(trained, _shown(trained, input_key, side))
            for student, members in trained.by_student().items():
                names = [(one.student, one.seed) for one in members]
                only[student][f"verification_at_{side}"] = [
                    _across(sharp[name], small[name], pairs) for name in names
                ]
        for student in scores:
            scores[student] |= only[student]
        title = "One image of each pair reduced to a side"
        return EvaluationReport(
            scores, report.figures, [*report.tables, table(only, title)]
        )

    return evaluate_sides


def _shown(trained: TrainedStudy, input_key: str, side: int | None):
    def view(batch: Batch) -> Batch:
        seen = trained.view.evaluate(batch)
        images = seen["image"]
        return {**seen, input_key: images if side is None else reduced(images, side)}

    return view


def _across(sharp: np.ndarray, small: np.ndarray, pairs: Pairs) -> float:
    both = np.concatenate([sharp, small])
    cosines = verification.cosine_scores(both, pairs.first, pairs.second + len(sharp))
    return 100 * verification.fold_accuracy(cosines, pairs.same, pairs.fold).mean


def embed(
    trained: TrainedStudy, view: Callable[[Batch], Batch] | None = None
) -> tuple[dict[tuple[str, int], np.ndarray], np.ndarray]:
    """Embeds the test images.

    Args:
      trained: the networks.
      view: what they see; None for the evaluation view.

    Returns:
      ``(student, seed) -> [images, width]``, and the labels ``[images]``.
    """
    parts: dict[tuple[str, int], list[np.ndarray]] = {}
    labels = []
    for batch in trained.batches(view=view):
        keep = np.asarray(batch["mask"])
        labels.append(np.asarray(batch["label"])[keep])
        for one in trained.members:
            rows = _embed_batch(one, batch)[keep]
            parts.setdefault((one.student, one.seed), []).append(rows)
    return {name: np.concatenate(p) for name, p in parts.items()}, np.concatenate(
        labels
    )


def _embed_batch(member: Member, batch: Batch) -> np.ndarray:
    return np.asarray(member.predict(batch)["features"]["embedding"])


def measure(
    embeddings: np.ndarray, labels: np.ndarray, pairs: Pairs | None
) -> dict[str, float]:
    """Measures one network's embeddings, in percent.

    Args:
      embeddings: ``[images, width]``.
      labels: ``[images]``.
      pairs: to verify; None for none.

    Returns:
      ``verification`` (accuracy over folds), ``eer``, ``tar_at_...`` for those FARs
      that so many pairs can tell from 0, ``recall_at_...`` where every label has two
      images; and ``threshold``, the mean over folds, which is a cosine.
    """
    found = {}
    if pairs is not None:
        cosines = verification.cosine_scores(embeddings, pairs.first, pairs.second)
        folds = verification.fold_accuracy(cosines, pairs.same, pairs.fold)
        found["verification"] = folds.mean
        found["eer"] = verification.equal_error_rate(cosines, pairs.same)
        fars = [far for far in FARS if far * np.sum(~pairs.same) >= 1]
        tars = verification.tar_at_far(cosines, pairs.same, fars)
        found |= {f"tar_at_{f:g}": t for f, t in zip(fars, tars, strict=True)}
        threshold = float(np.mean(folds.threshold))
    _, counts = np.unique(labels, return_counts=True)
    if counts.min() > 1:
        rows = verification.unit_rows(embeddings)
        ks = [k for k in KS if k < len(labels)]
        recall = retrieval.recall_at_k(rows, labels, ks)
        found |= {f"recall_at_{k}": r for k, r in zip(ks, recall, strict=True)}
    percent = {name: 100 * float(value) for name, value in found.items()}
    return percent | ({} if pairs is None else {THRESHOLD: threshold})


def table(
    scores: dict[str, dict[str, list[float]]], title: str = "Recognition"
) -> Table:
    """Makes a table of means over seeds, with their standard errors."""
    names = [name for name in next(iter(scores.values())) if name != THRESHOLD]
    rows = [["%", *names]]
    for student, found in scores.items():
        cells = [format_mean(found[name], 1) for name in names]
        rows.append([student, *cells])
    note = (
        "Mean and standard error over seeds. verification: accuracy over folds, "
        "the threshold chosen on the others; eer: equal error rate, lower is better."
    )
    return Table(title, rows, note)


def _draw_curves(trained: TrainedStudy, embeddings, pairs: Pairs) -> None:
    curves = {}
    for student, members in trained.by_student().items():
        rows = embeddings[student, members[0].seed]
        cosines = verification.cosine_scores(rows, pairs.first, pairs.second)
        curves[student] = verification.roc(cosines, pairs.same)[:2]
    least = 1 / np.sum(~pairs.same)
    roc.draw(trained, curves, ("FAR", "TAR"), least)
