"""The table of a study as text, and the notes that a reader of it must know.

Accuracies are fractions in ``results.json`` and percent where people read them; of
scores that are no percentages both are the same.
"""

import math
from collections.abc import Sequence
from functools import partial

from jaxkd.report.statistics import (
    Results,
    decimals,
    estimate,
    format_estimate,
    plural,
    score,
    study_rows,
)


def digits(results: Results) -> int:
    """Returns how many decimals of the score are shown."""
    return decimals(score(results), results["data"]["test_examples"])


def percent_scale(results: Results) -> int:
    """Returns by what the score is multiplied where people read it."""
    return 100 if score(results).percent else 1


def score_label(results: Results) -> str:
    """Returns what the score is, with its unit."""
    by = score(results)
    return f"test {by.label} in %" if by.percent else f"test {by.label}"


def notes(results: Results) -> list[str]:
    """Returns what a reader must know to read the study table."""
    reference, seeds = results.get("reference"), len(results["seeds"])
    lower = score(results).lower
    extreme = "lowest" if lower else "highest"
    lines = [f"last: {score_label(results)} after the final step."]
    if any(student.get("best") for student in results["students"].values()):
        lines.append(
            f"best: the {extreme} of all evaluations. It is chosen on the test set "
            "itself and therefore too optimistic; compare students by last."
        )
    if seeds > 1:
        lines.append(f"±: standard error of the mean over n = {seeds} seeds.")
    else:
        lines.append("One seed: the spread between seeds is unknown.")
    if reference is not None and len(results["students"]) > 1:
        lines.append(
            f"last − {reference}: mean difference between students of the same seed; "
            f"wins: seeds in which it is {'negative' if lower else 'positive'}."
        )
    for one in results.get("extended", ()):
        if one["differs"]:
            lines.append(
                f"Extended at step {one['step']:,}: up to there "
                f"{'; '.join(one['differs'])}, unlike in a run of this length."
            )
    return [
        *lines,
        *_seed_notes(results),
        *_chance_notes(results),
        *_frozen_notes(results),
    ]


def _seed_notes(results: Results) -> list[str]:
    """Returns which students are one and the same for all seeds."""
    same = [
        name
        for name, student in results["students"].items()
        if len(losses := student.get("train", {}).get("loss", ())) > 1
        and len(set(losses)) == 1
    ]
    if not same:
        return []
    return [
        f"All seeds of {', '.join(same)} are one: they start alike and see the same "
        "batches, or nothing is trained, so that ± says nothing of them. "
        'config.batches = "per_seed" gives each seed batches of its own.'
    ]


def _chance_notes(results: Results) -> list[str]:
    """Returns which students have learnt little or nothing, of classifiers."""
    classes, count = (results["data"][k] for k in ("num_classes", "test_examples"))
    if score(results).name != "top1" or not classes or not count:
        return []
    chance = 1 / classes
    spread = 2 * math.sqrt(chance * (1 - chance) / count)
    weak = [r.name for r in study_rows(results) if r.last.mean <= chance + spread]
    if not weak:
        return []
    return [
        f"Near chance ({100 * chance:.1f}, give or take {100 * spread:.1f} of "
        f"{count:,} test examples), so that little was learnt: {', '.join(weak)}. A "
        "smaller config.optim.lr may help, or a longer duration."
    ]


def _frozen_notes(results: Results) -> list[str]:
    """Returns where networks of earlier runs were measured, and what to make of it."""
    by, lines = score(results), []
    show = partial(
        format_estimate, places=digits(results), scale=percent_scale(results)
    )
    frozen = results["frozen"]
    here = [name for name, network in frozen.items() if network.get("measured_here")]
    if here:
        lines.append(f"{', '.join(here)}: measured on this run's test examples.")
    for name in here:
        theirs = frozen[name][by.name]
        for row in study_rows(results):
            own, count = row.last.mean, results["data"]["test_examples"]
            error = math.sqrt((theirs * (1 - theirs) + own * (1 - own)) / count)
            if row.method == "supervised" and own - theirs > 2 * error:
                lines.append(
                    f"{row.name}, which learnt from labels alone, reaches "
                    f"{show(row.last)}: more than {name} ({show(theirs)}), from which "
                    "little can be learnt then."
                )
    return lines


def table(results: Results) -> list[list[str]]:
    """Returns the study table as text cells, its first row the heading.

    Columns for which there is nothing to say are left out.
    """
    reference, by = results.get("reference"), score(results).name
    show = partial(
        format_estimate, places=digits(results), scale=percent_scale(results)
    )
    heading = ["", "last", "best", f"last − {reference}", "wins", "steps", "parameters"]
    lines = [heading]
    for name, network in results["frozen"].items():
        values = network.get("by_seed", {}).get(by)
        last = show(network.get(by) if values is None else estimate(values))
        count = f"{network['parameters']:,}"
        lines.append([f"{name} ({network['model']})", last, "", "", "", "", count])
    for row in study_rows(results):
        difference = wins = ""
        if row.difference is not None:
            difference = show(row.difference, sign=True)
            wins = f"{row.wins} of {len(row.last.values)}"
        lines.append(
            [
                f"{row.name} (reference)" if row.name == reference else row.name,
                show(row.last),
                "" if row.best is None else show(row.best),
                difference,
                wins,
                f"{row.steps:,}",
                f"{row.parameters:,}",
            ]
        )
    columns = zip(*lines, strict=True)
    used = [i for i, cells in enumerate(columns) if i == 0 or any(cells[1:])]
    return [[line[i] for i in used] for line in lines]


def format_table(results: Results) -> str:
    """Formats the study table for the terminal.

    Args:
      results: content of ``results.json``.

    Returns:
      A heading, aligned columns with the networks of earlier runs first, and notes.
    """
    heading = f"{results['name']}: {setting(results)}"
    text = [heading, "", *aligned(table(results)), "", *notes(results), ""]
    for one in results.get("tables", ()):
        text += [one["title"], "", *aligned(one["rows"]), ""]
        text += [one["note"], ""] if one["note"] else []
    return "\n".join(text)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows of text cells as lines of a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for first, *rest in lines:
        cells = [first.ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)
        ]
        text.append(("  " + "  ".join(cells)).rstrip())
    return text


def setting(results: Results) -> str:
    """Describes a run in one sentence."""
    data, environment = results["data"], results.get("environment", {})
    shape = "×".join(map(str, data["image_shape"]))
    text = (
        f"{plural(len(results['students']), 'student')} × "
        f"{plural(len(results['seeds']), 'seed')} on {data['name']} "
        f"({data['num_classes']} classes, images of {shape}, "
        f"{data['train_examples']:,} for training and {data['test_examples']:,} for "
        f"testing), {results['steps']:,} steps of {results['batch_size']} images"
    )
    if "seconds" in results:
        text += f" in {_duration(results['seconds'])}"
    if "platform" in environment:
        devices = plural(environment["devices"], "device")
        text += f" on {devices} ({environment['platform']})"
    return text + "."


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def magnitude(number: float | None) -> str:
    """Formats a large number with three digits and k, M, G or T."""
    if number is None:
        return "–"
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {unit}".rstrip()
        number /= 1000
    return f"{number:.3g} T"
