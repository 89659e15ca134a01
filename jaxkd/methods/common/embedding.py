"""Recognition as a ``Method``: embeddings, and how well they tell people apart.

While training, all pairs within a batch of test images are compared; after it, the
data set's own pairs are verified in folds, and images look for their like.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Batch, Loss, LossInputs, Method, Score, Spec
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.losses.numerics import einsum, unit
from jaxkd.methods.common import classification
from jaxkd.metrics import retrieval, verification
from jaxkd.readers.identity_pairs import Pairs, pairs_of
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean
from jaxkd.report.style import (
    WIDTH,
    canvas,
    line_styles,
    logarithmic,
    printable,
    themes,
)
from jaxkd.views.mixed_resolution import reduced

BINS = 512  # of cosines from -1 to 1
FARS = (0.001, 0.01, 0.1)
KS = (1, 2, 4, 8)
THRESHOLD = "threshold"
SCORE = Score("pairs", "pair accuracy")


@flax.struct.dataclass
class PairAccuracy(metrics.Metric):
    """Counts of cosines within batches, ``[2, BINS]``: two labels, one label."""

    counts: jax.Array

    @classmethod
    def from_model_output(cls, *, embedding, labels, mask, **_) -> "PairAccuracy":
        """Counts each pair of two unmasked examples of a batch once."""
        rows = unit(embedding.astype(jnp.float32))
        cosine = einsum("id,jd->ij", rows, rows)
        place = jnp.clip(((cosine + 1) / 2 * BINS).astype(jnp.int32), 0, BINS - 1)
        same = (labels[:, None] == labels[None, :]).astype(jnp.int32)
        counted = jnp.triu(mask[:, None] & mask[None, :], k=1).astype(jnp.int32)
        return cls(jnp.zeros((2, BINS), jnp.int32).at[same, place].add(counted))

    def merge(self, other: "PairAccuracy") -> "PairAccuracy":
        """Adds the counts of two sets of batches."""
        return PairAccuracy(self.counts + other.counts)

    def compute(self) -> jax.Array:
        """Returns the mean of both kinds' accuracies at the best threshold."""
        counts = self.counts.astype(jnp.float32)
        share = jnp.cumsum(counts, axis=1) / jnp.maximum(counts.sum(1), 1)[:, None]
        below = jnp.concatenate([jnp.zeros((2, 1)), share], axis=1)
        return jnp.max(below[0] + 1 - below[1]) / 2


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """Accuracy on the pairs within batches, and top-1 among the classes."""

    pairs: PairAccuracy
    top1: metrics.Average.from_output("top1")  # type: ignore[valid-type]


def evaluate(outputs: dict[str, Any], batch: Batch) -> Evaluation:
    """Compares embeddings within a batch, and logits with labels."""
    logits, labels = outputs["logits"], batch["label"]
    return Evaluation.single_from_model_output(
        embedding=_embedding(outputs["features"]),
        labels=labels,
        mask=batch["mask"],
        top1=jnp.argmax(logits, axis=-1) == labels,
    )


def embedder(
    spec: Spec,
    name: str,
    loss: Callable[[LossInputs], Loss],
    targets: dict[str, Callable] | None = None,
    sides: tuple[int, ...] = (),
) -> Method:
    """Makes the method of a network that embeds.

    Args:
      spec: the run.
      name: of the method, for messages.
      loss: as in ``Method``.
      targets: as in ``Method``.
      sides: to which one image of each test pair is also reduced, see ``by_side``.

    Raises:
      UserError: if the network has no embedding, or a side is out of its range.
    """
    features = _features_of(spec)
    if "embedding" not in features:
        raise UserError(
            f"Method {name!r} needs a network with an embedding, but config.model.name "
            f"has only {', '.join(features)}. Take one such as 'embed8'."
        )
    method = classification.classifier(spec, loss, targets)
    return method._replace(
        evaluate=evaluate, score=SCORE, evaluator=by_side(spec, sides) or assess
    )


def class_loss(
    kind: str, outputs: dict[str, Any], batch: Batch, margin: float, scale: float
) -> jax.Array:
    """Computes the batch mean of ArcFace or of a scaled softmax."""
    cosines = outputs["features"]["cosines"]
    margin = margin if kind == "arcface" else 0.0
    return jnp.mean(losses.arcface(cosines, batch["label"], margin=margin, scale=scale))


def direction_gap(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the batch mean of one minus the cosine of two embeddings.

    Raises:
      UserError: if their widths differ.
    """
    if student.shape != teacher.shape:
        raise UserError(
            f"The student's embedding has {student.shape[-1]} numbers and the "
            f"teacher's {teacher.shape[-1]}, expected as many: set config.model.width."
        )
    rows = unit(student.astype(jnp.float32)), unit(teacher.astype(jnp.float32))
    return jnp.mean(1 - jnp.sum(rows[0] * rows[1], axis=-1))


def _features_of(spec: Spec) -> dict[str, Any]:
    def forward(key, images):
        return spec.network.init_with_output(key, images)[0][1]

    images = spec.batch_shapes(2)[spec.input_key]
    return jax.eval_shape(forward, jax.random.key(0), images)


def _embedding(features: dict[str, jax.Array]) -> jax.Array:
    return features["embedding"]


def assess(trained: TrainedStudy) -> EvaluationReport:
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
    """Returns an ``assess`` that also verifies large images against small ones.

    The first image of a pair stays as it is, the second is reduced to each side and
    enlarged again: a sharp gallery, a blurred probe. Both go through the network that
    is assessed, so that it has to read images of the full size.

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


# Cached, so that all students of a run are assessed together.
@functools.cache
def _by_side(sides: tuple[int, ...], input_key: str):
    def assess_sides(trained: TrainedStudy) -> EvaluationReport:
        found, pairs = assess(trained), pairs_of(trained.dataset.test)
        if pairs is None:
            return found
        sharp, _ = embed(trained, _shown(trained, input_key, None))
        scores = {student: dict(values) for student, values in found.scores.items()}
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
            scores, found.figures, [*found.tables, table(only, title)]
        )

    return assess_sides


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
    return np.asarray(_embedding(member.predict(batch)["features"]))


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
    for path, theme in themes(trained.folder / "verification"):
        styles = line_styles(trained.student_order, theme)
        with canvas(path, (WIDTH, 4.0), theme, layout="constrained") as figure:
            axes = figure.subplots()
            for student, (far, tar) in curves.items():
                look = styles[student]
                line = functools.partial(axes.plot, color=look.color)
                line(far, tar, linestyle=look.dash, label=printable(student))
            axes.set_xlim(1 / np.sum(~pairs.same), 1)
            logarithmic(axes, "x")
            axes.set_xlabel("FAR")
            axes.set_ylabel("TAR")
            axes.legend(frameon=False, fontsize=8)
