"""What a run of the chat pipeline found: measures, a table of verdicts, a page."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core import files, tables
from jaxkd.metrics import verdicts, verification
from jaxkd.pipelines.chat_verification.pairs import Pairs
from jaxkd.report import explanations

COLUMNS = (
    *("pair", "sample1", "sample2", "order", "same"),
    *("decision", "confidence", "method", "error"),
)
SHOWN = 40  # pairs on the page


def measure(rows: Sequence[Mapping[str, Any]], pairs: Pairs) -> dict[str, Any]:
    """Measures all answers; pairs whose truth is unknown are counted, not judged."""
    known = [row for row in rows if row["same"] is not None]
    found: dict[str, Any] = {
        "answers": len(rows),
        "left_out": pairs.left_out,
        "judged": len(known),
        "errors": sum(row["error"] is not None for row in rows),
        "refusals": sum(bool(row["refusals"]) for row in rows),
        "cut_off": sum("length" in row["finish_reasons"] for row in rows),
        "methods": _counts([row["method"] for row in rows]),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
    }
    if known:
        found |= _verdicts(known)
    given = {row["pair"]: row for row in rows if row["order"] == "given"}
    turned = {row["pair"]: row for row in rows if row["order"] == "swapped"}
    both = sorted(given.keys() & turned.keys())
    if both:
        found["swap_consistency"] = verdicts.agreement(
            [given[i]["decision"] for i in both], [turned[i]["decision"] for i in both]
        )
        found |= {f"averaged_{k}": v for k, v in _averaged(given, turned, both).items()}
    if pairs.gold:
        told = [given[i]["features"] for i in sorted(given)]
        gold = [pairs.gold[i] for i in sorted(given)]
        accuracy = verdicts.feature_accuracy(told, gold)
        base = verdicts.majority_accuracy(gold, pairs.gold)
        found["feature_accuracy"] = accuracy
        found["mean_feature_accuracy"] = float(np.mean(list(accuracy.values())))
        found["mean_majority_accuracy"] = float(np.mean(list(base.values())))
    return found


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one line for each answer, in the order of the pairs."""
    out = io.StringIO()
    writer = tables.CsvWriter(out)
    writer.writerows([COLUMNS, *([row.get(k) for k in COLUMNS] for row in rows)])
    files.write_text(path, out.getvalue())


def write_page(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    pairs: Pairs,
    results: Mapping[str, Any],
) -> None:
    """Writes a page: measures, pairs with their explanations, and how it was made."""
    by_pair = {question.pair: question for question in pairs.questions}
    given = [row for row in rows if row["order"] == "given"]
    shown = []
    for row in given[:SHOWN]:
        sample = by_pair[row["pair"]].load()
        text = row["explanation"] or row["reply"] or row["error"] or ""
        shown.append(
            explanations.Explained(
                sample.known, sample.questioned, row["same"], row["decision"], text
            )
        )
    made = {**results["environment"], **results["provenance"]}
    notes = [
        format_table(results),
        "\n".join(f"{key}: {value}" for key, value in made.items() if value),
    ]
    explanations.write(path, "Pairs and their explanations", shown, notes)


def format_table(results: Mapping[str, Any]) -> str:
    """Formats the measures for the terminal."""
    if "estimate" in results:
        cost = results["estimate"]
        budget = ""
        if 0 < cost["budget"] < cost["most_dollars"]:
            budget = (
                f" config.budget is ${cost['budget']:.2f}: where that is reached the "
                "run stops, keeps its answers, and goes on once it is raised."
            )
        return (
            f"{cost['requests']:.0f} requests, about {cost['prompt_tokens']:,.0f} "
            f"tokens in and at most {cost['completion_tokens']:,.0f} out: at most "
            f"${cost['dollars']:.2f}, or ${cost['most_dollars']:.2f} if every answer "
            f"has to be asked for again (config.price_input {cost['price_input']:g}, "
            f"config.price_output {cost['price_output']:g} dollars a million tokens)."
            f"{budget} Nobody was asked."
        )
    found = results["measures"]
    lines = [f"{results['model']}, {results['mode']}, {found['answers']} answers"]
    for name in (
        "accuracy",
        "coverage",
        "accuracy_answered",
        "auc",
        "eer",
        "swap_consistency",
        "averaged_accuracy",
        "mean_feature_accuracy",
        "mean_majority_accuracy",
    ):
        if found.get(name) is not None:
            lines.append(f"  {name:24} {100 * found[name]:6.1f} %")
    lines.append(
        f"  {found['errors']} errors, {found['refusals']} refusals, "
        f"{found['cut_off']} cut off"
    )
    if found.get("left_out"):
        lines.append(
            f"  {found['left_out']} further pairs of the table were not asked about: "
            "config.pairs"
        )
    return "\n".join(lines)


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    decisions = [row["decision"] for row in rows]
    same = [row["same"] for row in rows]
    found = verdicts.verdict_metrics(decisions, same)
    answered = found.accuracy_answered
    out: dict[str, Any] = {
        "accuracy": found.accuracy,
        "coverage": found.coverage,
        "accuracy_answered": None if np.isnan(answered) else answered,
        "confusion": found.confusion.tolist(),
    }
    if len(set(same)) == 2:
        scores = verdicts.scores(decisions, [row["confidence"] for row in rows])
        far, tar, _ = verification.roc(scores, np.array(same))
        out["auc"] = float(np.trapezoid(tar, far))
        out["eer"] = verification.equal_error_rate(scores, np.array(same))
    return out


def _averaged(given, turned, both) -> dict[str, float]:
    """Judges by the mean of both orders; one half, or nothing, decides nothing."""
    sides = [
        verdicts.scores(
            [side[i]["decision"] for i in both], [side[i]["confidence"] for i in both]
        )
        for side in (given, turned)
    ]
    mean = (sides[0] + sides[1]) / 2
    known = [k for k, i in enumerate(both) if given[i]["same"] is not None]
    if not known:
        return {}
    decisions = [None if mean[k] == 0.5 else bool(mean[k] > 0.5) for k in known]
    found = verdicts.verdict_metrics(decisions, [given[both[k]]["same"] for k in known])
    return {"accuracy": found.accuracy, "coverage": found.coverage}


def _counts(values: Sequence[str]) -> dict[str, int]:
    return {name: values.count(name) for name in sorted(set(values))}
