"""The pairs that a chat model is asked about: of a table, or of drawn writers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.drawing.handwriting import draw_writers
from jaxkd.drawing.writer_features import FEATURES, features
from jaxkd.pipelines.chat_verification.asking import Question
from jaxkd.pipelines.chat_verification.prompts import Sample
from jaxkd.readers import images

LABELS = {"1": True, "true": True, "same": True, "yes": True}
LABELS |= {"0": False, "false": False, "different": False, "no": False, "": None}  # type: ignore[dict-item]
FIRST_DRAWN, FIRST_EXAMPLE = 100_000, 300_000  # numbers of drawn writers

Gold = dict[str, tuple[str, str]]


class Pairs(NamedTuple):
    """All pairs of a run.

    Attributes:
      questions: one for each.
      examples: labelled pairs of other writers.
      gold: the features of each pair's samples; empty where nobody knows them.
      left_out: pairs of the table beyond ``config.pairs``.
    """

    questions: Sequence[Question]
    examples: Sequence[Sample]
    gold: Sequence[Gold]
    left_out: int = 0


def load(config: ConfigDict) -> Pairs:
    """Loads the pairs that a configuration describes.

    Raises:
      UserError: if the table or an image is missing or damaged.
    """
    examples, _ = _draw(
        config.few_shot, config.size, config.seed, config.word, FIRST_EXAMPLE
    )
    if config.table:
        questions, left_out = _read(config)
        return Pairs(questions, examples, (), left_out)
    samples, gold = _draw(
        config.pairs, config.size, config.seed, config.word, FIRST_DRAWN
    )
    questions = [
        Question(i, lambda one=one: one, one.same)  # type: ignore[misc]
        for i, one in enumerate(samples)
    ]
    return Pairs(questions, examples, gold)


def _draw(
    count: int, size: int, seed: int, word: str, first: int
) -> tuple[list[Sample], list[Gold]]:
    """Draws as many pairs of one writer as of two, in turn; no writer comes twice."""
    if not count:
        return [], []
    drawn = draw_writers(2 * count, 2, side=size, seed=seed, first=first)
    values = features(drawn.sample_parameters)
    samples, gold = [], []
    for pair in range(count):
        same = pair % 2 == 0
        one, other = 4 * pair, 4 * pair + (1 if same else 2)
        known, questioned = drawn.image[one, ..., 0], drawn.image[other, ..., 0]
        samples.append(Sample(known, questioned, word, same))
        gold.append(
            {
                name: (options[values[one, i]], options[values[other, i]])
                for i, (name, options) in enumerate(FEATURES.items())
            }
        )
    return samples, gold


def _read(config: ConfigDict) -> tuple[list[Question], int]:
    """Returns the questions of a table, and how many of its pairs are left out."""
    table, folder = Path(config.table).expanduser(), Path(config.images).expanduser()
    remedy = "Check config.table."
    names, *lines = parsing.read_rows(table, "a table of pairs", remedy) or [[]]
    if not {"sample1", "sample2"} <= set(names):
        raise UserError(
            f"{table} has the columns {', '.join(names) or 'none'}. Expected "
            "sample1, sample2 and label."
        )
    if not lines:
        raise UserError(f"{table} has no pair, expected one on each line. {remedy}")
    rows = [dict(zip(names, line, strict=False)) for line in lines]
    questions: list[Question] = []
    whole: set[Path] = set()
    for number, row in enumerate(rows[: config.pairs or None]):
        label = (row.get("label") or "").strip().lower()
        if label not in LABELS:
            raise UserError(
                f"{table}, row {number + 2}, has the label {label!r}. Expected 1 or 0."
            )
        samples = row.get("sample1", ""), row.get("sample2", "")
        paths = [folder / name for name in samples]
        for path in paths:
            if path in whole:
                continue
            if not parsing.is_file(path):
                raise UserError(
                    f"{table}, row {number + 2}, names {path}, which does not exist. "
                    "Check config.images."
                )
            images.decode(path)  # before anything is paid for, not in the middle
            whole.add(path)
        same = LABELS[label]

        def read(paths=paths, same=same) -> Sample:
            first, second = map(images.decode, paths)
            return Sample(first, second, config.word, same)

        questions.append(Question(number, read, same, samples))
    return questions, len(rows) - len(questions)
