"""Text recognition: lines read exactly by test set, and edit distances."""

import numpy as np

from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.metrics import text
from jaxkd.report.items import Table
from jaxkd.report.statistics import format_mean

ALL = "all"


def find(trained: TrainedStudy) -> EvaluationReport:
    """Compares what all members read with the truth; see ``jaxkd.evaluators.base``.

    Where the test lines are of several sets (TextZoom's easy, medium and hard), the
    share of exact ones is given for each; ``all`` weighs the sets by their lines.
    """
    alphabet = "".join(trained.dataset.info.class_names[1:])
    truths: list[str] = []
    places: list[int] = []
    read: dict[tuple[str, int], list[str]] = {}
    for batch in trained.batches():
        mask = np.asarray(batch["mask"])
        truths += text.decode(np.asarray(batch["tokens"])[mask], alphabet)
        places += np.asarray(batch.get("group", np.zeros(len(mask), int)))[
            mask
        ].tolist()
        for member in trained.members:
            tokens = np.asarray(member.predict(batch)["logits"])[mask].argmax(-1)
            lines = read.setdefault((member.student, member.seed), [])
            lines += text.decode(tokens, alphabet)
    names = getattr(trained.dataset.test, "groups", (ALL,))
    groups = [names[place] for place in places]
    found = {
        member: text.summary(text.score(lines, truths), groups)
        for member, lines in read.items()
    }
    shown = [name for name in names if name in groups and len(set(groups)) > 1] + [ALL]
    scores: dict[str, dict[str, list[float]]] = {}
    table = [["exact, %", *shown, "edit distance", "similarity, %"]]
    for student, members in trained.by_student().items():
        each = [found[student, one.seed] for one in members]
        exact = {name: [one[name]["exact"] for one in each] for name in shown}
        distance, similarity = (
            [one[ALL][metric] for one in each]
            for metric in ("edit_distance", "similarity")
        )
        scores[student] = {"edit_distance": distance, "similarity": similarity}
        scores[student] |= {
            f"exact_{name}": values for name, values in exact.items() if name != ALL
        }
        cells = [format_mean(values, 2, scale=100) for values in exact.values()]
        cells.append(format_mean(distance, 2))
        table.append([student, *cells, format_mean(similarity, 2, scale=100)])
    note = (
        f"{len(truths)} test lines, without regard to case; similarity is 1 less the "
        "edit distance over the longer line. Mean ± standard error over seeds."
    )
    return EvaluationReport(scores, (), [Table("Text recognition", table, note)])
