"""Evaluates verifiers that write: verdicts by likelihood, explanations by their truth.

The pairs come from ``jaxkd.datasets.handwriting_prompts``, with the gold features of
drawn words. Nothing is dropped: a feature that is not told is a wrong one.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxkd.core.types import EXPLAIN
from jaxkd.datasets.handwriting_prompts import PromptedPairs, read_features
from jaxkd.drawing.writer_features import FEATURES
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy, without
from jaxkd.metrics import pairs, verdicts
from jaxkd.report import explanations
from jaxkd.report.items import Table
from jaxkd.report.statistics import format_mean

SHOWN = 24  # pairs on the page of explanations
EXPLAINED = 300  # most pairs whose explanations are measured
NAMES = ("accuracy", "auc", "eer", "f1", "swap_consistency", "feature_accuracy")


class _Judged(NamedTuple):
    probability: np.ndarray  # of one hand
    swapped: np.ndarray
    texts: list[str]  # of the first pairs; empty where nothing is written


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Judges the test's pairs in both orders, and reads what is written about them."""
    test: PromptedPairs = trained.dataset.test  # type: ignore[assignment]
    same = test.arrays["label"] == 1
    scores: dict[str, dict[str, list[float]]] = {}
    right: dict[str, np.ndarray] = {}
    features: dict[str, dict[str, float]] = {}
    for student, members in trained.by_student().items():
        scores[student] = {}
        for member in members:
            judged = _judge(trained, member, test)
            found = pairs.decisions(judged.probability, same)
            found["swap_consistency"] = verdicts.agreement(
                list(judged.probability > 0.5), list(judged.swapped > 0.5)
            )
            told = _told(judged.texts, test)
            if told:
                found["feature_accuracy"] = float(np.mean(list(told.values())))
            for name, value in found.items():
                scores[student].setdefault(name, []).append(100 * value)
            if member is members[0]:
                right[student] = (judged.probability > 0.5) == same
                features[student] = told
                _write_page(trained, student, test, judged)
    tables = [_table(scores), *_compare(right)]
    tables += _features(trained, test, features)
    return EvaluationReport(without(scores, "accuracy", "f1"), (), tables)


def _judge(trained: TrainedStudy, member: Member, test: PromptedPairs) -> _Judged:
    probability, swapped, texts = [], [], []
    seen = 0
    explains = test.target != "answer_only"
    for batch in trained.batches():
        mask = np.asarray(batch["mask"])
        asked: dict[str, Any] = dict(batch)
        if explains and seen < EXPLAINED:
            asked[EXPLAIN] = jnp.ones(len(mask), bool)
        outputs = member.predict(asked)
        probability.append(_same(outputs)[mask])
        if explains and seen < EXPLAINED:
            written = np.asarray(outputs["written"])[mask]
            texts += [test.tokenizer.decode(row) for row in written]
        turned = dict(batch) | {"pair": batch["pair"][:, ::-1]}
        swapped.append(_same(member.predict(turned))[mask])
        seen += int(mask.sum())
    return _Judged(
        np.concatenate(probability), np.concatenate(swapped), texts[:EXPLAINED]
    )


def _same(outputs) -> np.ndarray:
    logits = np.asarray(outputs["logits"], np.float64)
    return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


def _gold(test: PromptedPairs, count: int) -> list[dict[str, tuple[str, str]]]:
    """Returns the true values of the first pairs, by feature."""
    return [
        {
            name: (FEATURES[name][first], FEATURES[name][second])
            for name, (first, second) in zip(test.described, row, strict=True)
        }
        for row in test.arrays["features"][:count]
    ]


def _told(texts: list[str], test: PromptedPairs) -> dict[str, float]:
    if not texts:
        return {}
    told = [read_features(text, test.described) for text in texts]
    return verdicts.feature_accuracy(told, _gold(test, len(texts)))


def _table(scores) -> Table:
    rows = [["%", *NAMES]]
    for student, found in scores.items():
        cells = [format_mean(found.get(name, ()), 1) for name in NAMES]
        rows.append([student, *cells])
    note = (
        "Mean ± standard error over seeds, over all test pairs. Verdicts by "
        "likelihood, one half the threshold. swap_consistency: the same verdict with "
        "known and questioned exchanged. feature_accuracy: values of features, of both "
        "samples, that explanations tell rightly."
    )
    return Table("Verification with explanations", rows, note)


def _compare(right: dict[str, np.ndarray]) -> list[Table]:
    names = list(right)
    if len(names) < 2:
        return []
    rows = [["McNemar p", *names[1:]]]
    for i, first in enumerate(names[:-1]):
        cells = [
            f"{verdicts.mcnemar(right[first], right[second]):.3g}" if j > i else ""
            for j, second in enumerate(names)
        ]
        rows.append([first, *cells[1:]])
    note = "Exact two-sided test on the same pairs, first seed."
    return [Table("Do two systems err on different pairs?", rows, note)]


def _features(trained, test: PromptedPairs, features) -> list[Table]:
    """Sets each feature's accuracy beside always telling its most frequent value."""
    shown = {student: told for student, told in features.items() if told}
    if not shown:
        return []
    gold = _gold(test, min(len(test), EXPLAINED))
    train = trained.dataset.train(trained.seeds[0])
    base = verdicts.majority_accuracy(gold, _gold(train, len(train)))
    rows = [["%", "most frequent", *shown]]
    for name in test.described:
        cells = [f"{100 * told[name]:.1f}" for told in shown.values()]
        rows.append([name, f"{100 * base[name]:.1f}", *cells])
    cells = [f"{100 * np.mean(list(told.values())):.1f}" for told in shown.values()]
    rows.append(["mean", f"{100 * np.mean(list(base.values())):.1f}", *cells])
    note = f"First seed, {len(gold)} test pairs, both samples of each."
    return [Table("Features in explanations", rows, note)]


def _write_page(trained, student: str, test: PromptedPairs, judged: _Judged) -> None:
    if not judged.texts:
        return
    shown = [
        explanations.Explained(
            test.arrays["image"][i],
            test.arrays["other"][i],
            bool(test.arrays["label"][i]),
            bool(judged.probability[i] > 0.5),
            judged.texts[i].replace(";", "\n"),
        )
        for i in np.linspace(0, len(judged.texts) - 1, SHOWN).astype(int)
    ]
    folder = trained.folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    explanations.write(
        folder / f"explanations-{student}.html", f"Explanations of {student}", shown
    )
