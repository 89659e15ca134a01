"""Evaluates verifiers of handwriting: metrics over the whole test, curves, baselines.

The data set's pairs come from ``jaxkd.datasets.handwriting`` with ``task="pairs"``,
which also keeps the words that they were made of.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxkd.core.source import ArraySource
from jaxkd.evaluators import roc
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy, without
from jaxkd.metrics import descriptors, pairs, verification
from jaxkd.readers.handwriting import PairedWords, Words
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean
from jaxkd.report.style import WIDTH, canvas, printable, themes

TSNE_WRITERS = 10  # shown in the figure
NAMES = ("accuracy", "precision", "recall", "f1", "auc", "eer")
DECIDERS = ("head", "cosine")
HAND_CRAFTED = ("raw pixels", "HOG", "GSC-style")

Decisions = dict[int, np.ndarray]  # seed -> whether each test pair is decided rightly


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Verifies the test's pairs, compares cosines, and fits the baselines."""
    test: PairedWords = trained.dataset.test  # type: ignore[assignment]
    same, writers = test.arrays["label"] == 1, test.arrays["writers"]
    scores: dict[str, dict[str, list[float]]] = {}
    probabilities, features = {}, {}
    decided: dict[str, dict[str, Decisions]] = {name: {} for name in DECIDERS}
    trains: dict[int, PairedWords] = {
        seed: trained.dataset.train(seed)  # type: ignore[misc]
        for seed in trained.seeds
    }
    for student, members in trained.by_student().items():
        scores[student] = {}
        for name in DECIDERS:
            decided[name][student] = {}
        for member in members:
            probability = _probabilities(trained, member)
            rows = _encode(trained, member, test.words)
            train = trains[member.seed]
            measured = pairs.decisions(probability, same) | _cosines(rows, test, same)
            by_cosine = _decide_by_cosine(
                rows, test, _encode(trained, member, train.words), train
            )
            measured["cosine_accuracy"] = float(np.mean(by_cosine == same))
            for name, value in measured.items():
                scores[student].setdefault(name, []).append(100 * value)
            decided["head"][student][member.seed] = (probability > 0.5) == same
            decided["cosine"][student][member.seed] = by_cosine == same
            if member is members[0]:
                probabilities[student], features[student] = probability, rows
    _draw_curves(trained, probabilities, same)
    figures = [
        Figure(
            "verification",
            "Verification",
            "Share of pairs of one hand accepted, by that of two hands; first seed.",
        )
    ]
    drawn = _draw_tsne(trained, features, test.words)
    if drawn:
        figures.append(Figure("writers", "Words by writer", drawn))
    tables = [
        _table(scores),
        _intervals(decided, writers, trained.student_order.reference),
        *_baselines(trains, test, same),
    ]
    return EvaluationReport(without(scores, "accuracy", "f1"), figures, tables)


def _probabilities(trained: TrainedStudy, member: Member) -> np.ndarray:
    """Returns the probability of one hand of every test pair."""
    found = []
    for batch in trained.batches():
        logits = np.asarray(member.predict(batch)["logits"], np.float64)
        probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        found.append(probability[np.asarray(batch["mask"])])
    return np.concatenate(found)


def _encode(trained: TrainedStudy, member: Member, words: Words) -> np.ndarray:
    """Returns the encoder's features of all test words."""
    none = np.zeros(len(words.image), np.int32)
    source = ArraySource({"image": words.image, "other": words.image, "label": none})
    found = []
    for batch in trained.batches(source):
        rows = member.predict(batch)["features"]["pooled"][:, 0]
        found.append(np.asarray(rows)[np.asarray(batch["mask"])])
    return np.concatenate(found)


def _cosines(features: np.ndarray, test: PairedWords, same) -> dict[str, float]:
    """Compares cosines of the centred features, without a head."""
    from sklearn.metrics import roc_auc_score

    gap = pairs.cosine_gap(_directions(features), test.words.writer)
    centred = _directions(features - features.mean(axis=0))
    cosine = verification.cosine_scores(centred, test.table.first, test.table.second)
    return gap | {"cosine_auc": float(roc_auc_score(same, cosine))}


def _directions(rows: np.ndarray) -> np.ndarray:
    """Gives rows of zeros one direction of their own, at right angles to all others.

    A dead encoder then has the figures of chance, and does not end the evaluation.
    """
    return np.column_stack([rows, ~rows.any(axis=1)])


def _decide_by_cosine(
    features: np.ndarray, test: PairedWords, seen: np.ndarray, train: PairedWords
) -> np.ndarray:
    """Decides by a threshold of the cosine that is best on the training pairs.

    Returns:
      Boolean ``[pairs]``, True for one hand.
    """
    centre = seen.mean(axis=0)
    fitted, tested = (
        verification.cosine_scores(
            _directions(rows - centre), one.table.first, one.table.second
        )
        for rows, one in ((seen, train), (features, test))
    )
    threshold = pairs.best_threshold(fitted, train.arrays["label"] == 1)
    return tested > threshold


def _intervals(
    decided: Mapping[str, Mapping[str, Decisions]],
    writers: np.ndarray,
    reference: str | None,
) -> Table:
    """Says how far other test writers would change accuracies and differences."""
    rows = [["%", *(f"{name}{end}" for name in DECIDERS for end in ("", " gain"))]]
    for student in decided["head"]:
        cells = [student]
        for name in DECIDERS:
            own, base = decided[name][student], decided[name].get(reference or "")
            cells.append(_interval(list(own.values()), writers))
            seeds = [] if base is None or base is own else sorted({*own} & {*base})
            gains = [1.0 * own[seed] - base[seed] for seed in seeds if base]
            cells.append(_interval(gains, writers))
        rows.append(cells)
    note = (
        "Accuracy by the head and by the cosine, means over seeds, and 95 % intervals "
        "over test writers, drawn with replacement 1,000 times. Gain: pair by pair and "
        f"seed by seed minus {reference or 'a reference, of which there is none'}."
    )
    return Table("If other writers were tested", rows, note)


def _interval(values: Sequence[np.ndarray], writers: np.ndarray) -> str:
    if not values:
        return ""
    mean = np.mean(np.asarray(values, float), axis=0)
    low, high = pairs.bootstrap_accuracy(mean, writers)
    return f"{100 * mean.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _table(scores) -> Table:
    names = (*NAMES, "cosine_accuracy", "cosine_auc", "intra", "inter", "gap")
    rows = [["%", *names]]
    for student, found in scores.items():
        rows.append([student, *(format_mean(found[name], 1) for name in names)])
    note = (
        "Mean ± standard error over seeds. Positive: one hand. cosine_accuracy, "
        "cosine_auc: of the encoder's centred features, without a head, the threshold "
        "the best one of the training pairs, whose mean is the centre (for the AUC, "
        "that of the test words); intra, inter: mean cosines of one hand and of two, "
        "of the features as they are."
    )
    return Table("Verification of writers", rows, note)


def _baselines(trains, test: PairedWords, same) -> list[Table]:
    """Decides by hand-crafted similarities; thresholds from the training pairs."""
    tested = _similarities(test)
    rows = [["%", "accuracy", "auc"]]
    fitted = [
        (_similarities(source), source.arrays["label"] == 1)
        for source in trains.values()
    ]
    from sklearn.metrics import roc_auc_score

    for name, similarity in tested.items():
        accuracies = [
            100
            * np.mean((similarity > pairs.best_threshold(found[name], kinds)) == same)
            for found, kinds in fitted
        ]
        auc = f"{100 * roc_auc_score(same, similarity):.1f}"
        rows.append([name, format_mean(accuracies, 1), auc])
    note = (
        "Similarity of two words: negative squared difference of pixels, cosine of "
        "HOG, correlation of GSC-style bits. The threshold is the best one of each "
        "seed's training pairs."
    )
    return [Table("Hand-crafted descriptors", rows, note)]


def _similarities(source: PairedWords) -> dict[str, np.ndarray]:
    ink = descriptors.ink_of(source.words.image)
    first, second = source.table.first, source.table.second
    raw = -np.mean((ink[first] - ink[second]) ** 2, axis=(1, 2))
    hog = descriptors.hog(ink, cell=max(ink.shape[1] // 8, 2))
    hog = hog / np.maximum(np.linalg.norm(hog, axis=1, keepdims=True), 1e-9)
    bits = descriptors.gsc_style(ink)
    return dict(
        zip(
            HAND_CRAFTED,
            (
                raw,
                np.sum(hog[first] * hog[second], axis=1),
                descriptors.binary_similarity(bits[first], bits[second]),
            ),
            strict=True,
        )
    )


def _draw_curves(trained: TrainedStudy, probabilities, same) -> None:
    curves = {
        student: verification.roc(probability, same)[:2]
        for student, probability in probabilities.items()
    }
    labels = "pairs of two hands accepted", "pairs of one hand accepted"
    roc.draw(trained, curves, labels)


def _draw_tsne(trained: TrainedStudy, features, words: Words) -> str:
    """Draws words of a few writers as t-SNE lays them out; returns the caption."""
    from sklearn.manifold import TSNE

    student = max(features, key=lambda name: list(features).index(name))
    shown = np.unique(words.writer)[:TSNE_WRITERS]
    rows = np.flatnonzero(np.isin(words.writer, shown))
    chosen = features[student][rows]
    if len(rows) < 8 or np.all(chosen == chosen[0]):  # nothing to lay out
        return ""
    layout = TSNE(
        perplexity=min(30.0, (len(rows) - 1) / 3),
        learning_rate=200.0,
        init="pca",
        random_state=0,
    ).fit_transform(chosen)
    for path, theme in themes(trained.folder / "writers"):
        with canvas(path, (WIDTH, 4.5), theme, layout="constrained") as figure:
            axes = figure.subplots()
            axes.scatter(*layout.T, c=words.writer[rows], cmap="tab10", s=14)
            axes.set_xticks([])
            axes.set_yticks([])
    return (
        f"The encoder's features of {printable(student)}, first seed, by t-SNE: words "
        f"of {len(shown)} test writers, a colour each."
    )
