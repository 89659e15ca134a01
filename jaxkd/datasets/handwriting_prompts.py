"""Pairs of handwritten words with a prompt and the text that answers it.

The pairs are those of ``jaxkd.datasets.handwriting``. Drawn words bring gold features,
of which templated explanations are made: ``slantness left normal`` and so on, then the
verdict, or the other way round.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset
from jaxkd.datasets import handwriting
from jaxkd.drawing.writer_features import FEATURES, features
from jaxkd.readers.handwriting import PairedWords
from jaxkd.readers.tokenizers import (
    BOS,
    EOS,
    PAD,
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)

TARGETS = ("answer_only", "explain_then_answer", "answer_then_explain", "caption")
ANSWERS = ("different", "same")  # by label
PROMPT = "verify writer en"


def load(
    target: str = "answer_only",
    described: Sequence[str] = (),
    tokenizer: str = "bytes",
    prompt: str = PROMPT,
    length: int = 0,
    root: str | None = None,
    size: int = 64,
    labelled: float = 1.0,
    max_positives: int | None = None,
    test_pairs: int = 3_000,
    writers: int = 200,
    test_writers: int = 60,
    samples: int = 10,
    intra: float = 0.5,
    inter: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Makes the data set.

    Fields beside those of pairs: ``tokens`` int32 ``[length]``, the text from its
    beginning mark on, without image placeholders; ``causal`` and ``valid`` bool
    ``[length]``; ``answers`` int32 ``[2]``, the tokens of "different" and "same";
    ``features`` int32 ``[described, 2]``, gold values of both words.

    Args:
      target: what the text after the prompt is: ``"answer_only"``,
        ``"explain_then_answer"``, ``"answer_then_explain"``, or ``"caption"``, the
        explanation without a verdict, which teaches to see without telling whom.
      described: features in explanations; all twelve of ``FEATURES`` if empty.
      tokenizer: ``"bytes"``, with a token for each word of the template, or the path of
        a ``tokenizer.model``.
      prompt: the text before the line break.
      length: of the text; 0 for the longest.
      root: this and all that follow are as for ``jaxkd.datasets.handwriting.load``: a
        folder; None draws writers.
      size: side of the pictures.
      labelled: share of the training writers of whom pairs are made.
      max_positives: pairs of one hand of each training writer; None takes all.
      test_pairs: most pairs to test.
      writers: drawn for training.
      test_writers: drawn for the test.
      samples: drawn of each.
      intra: variation within a writer.
      inter: variation between writers.
      seed: of drawing, splitting and test pairs.

    Raises:
      UserError: if an option is out of its range, or explanations are asked of words
        without gold features.
    """
    lookup.choose(target, dict.fromkeys(TARGETS), what="target")
    chosen = tuple(described) or tuple(FEATURES)
    for name in chosen:
        lookup.choose(name, FEATURES, what="described")
    text = make_tokenizer(tokenizer, prompt)
    plain = handwriting.load(
        root,
        "pairs",
        size,
        labelled,
        max_positives=max_positives,
        test_pairs=test_pairs,
        writers=writers,
        test_writers=test_writers,
        samples=samples,
        intra=intra,
        inter=inter,
        seed=seed,
    )

    def prompted(source: PairedWords) -> PromptedPairs:
        return PromptedPairs(source, target, chosen, text, prompt, length)

    return plain._replace(
        train=lambda seed: prompted(plain.train(seed)),  # type: ignore[arg-type]
        test=prompted(plain.test),  # type: ignore[arg-type]
    )


def make_tokenizer(name: str, prompt: str = PROMPT) -> Tokenizer:
    """Makes the tokeniser of a name as ``load`` takes it.

    Raises:
      UserError: if the file is missing or another's.
    """
    if name != "bytes":
        return SentencePieceTokenizer(name)
    words = [prompt, *ANSWERS, *FEATURES, " ", ";"]
    words += sorted({value for values in FEATURES.values() for value in values})
    return ByteTokenizer(tuple(dict.fromkeys(words)))


class PromptedPairs(PairedWords):
    """Pairs of words in memory, each with its tokens.

    Attributes:
      described: features that explanations tell.
      tokenizer: of the tokens.
      target: which text they are; see ``load``.
    """

    def __init__(
        self,
        pairs: PairedWords,
        target: str,
        described: tuple[str, ...],
        tokenizer: Tokenizer,
        prompt: str,
        length: int,
    ):
        """Writes the texts of all pairs; see ``load``."""
        super().__init__(pairs.words, pairs.table)
        self.described, self.tokenizer, self.target = described, tokenizer, target
        gold = _gold(self, described)
        if gold is None and target != "answer_only":
            raise UserError(
                f"target is {target!r}, but the words have no gold features to "
                "explain. Expected drawn words (no root), or target 'answer_only'."
            )
        head = [BOS, *tokenizer.encode(prompt), *tokenizer.encode("\n")]
        tails = [
            _suffix(target, bool(label), gold[i] if gold is not None else (), described)
            for i, label in enumerate(self.arrays["label"])
        ]
        # Few texts are different ones.
        encoded = {t: [*head, *tokenizer.encode(t), EOS] for t in set(tails)}
        longest = max(map(len, encoded.values()))
        if length and longest > length:
            raise UserError(
                f"Texts have up to {longest} tokens, but length is {length}. Raise it, "
                "or describe fewer features."
            )
        count = length or longest_text(target, described, tokenizer, prompt)
        tokens = np.full((len(tails), count), PAD, np.int32)
        for row, text in enumerate(tails):
            ids = encoded[text]
            tokens[row, : len(ids)] = ids
        used = np.array([len(encoded[text]) for text in tails])[:, None]
        at = np.arange(count)
        self.arrays |= {
            "tokens": tokens,
            "causal": (at >= len(head)) & (at < used),
            "valid": at < used,
            "answers": np.tile(_answers(tokenizer), (len(tails), 1)),
        }
        if gold is not None:
            self.arrays["features"] = gold


def longest_text(
    target: str, described: Sequence[str], tokenizer: Tokenizer, prompt: str
) -> int:
    """Returns the tokens of the longest text that a target can have."""

    def size(value: str) -> int:
        return len(tokenizer.encode(value))

    gold = []
    for name in described:
        sizes = [size(value) for value in FEATURES[name]]
        gold.append([sizes.index(max(sizes))] * 2)
    texts = [_suffix(target, same, gold, described) for same in (False, True)]
    marks = 2 + size("\n") - 1
    return 1 + size(prompt) + marks + max(map(size, texts))


def read_features(text: str, described: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Reads the values of features out of a text as this data set writes it.

    Returns:
      Feature -> (known value, questioned value), where both are among its values.
    """
    found = {}
    for part in text.split(";"):
        words = part.strip()
        for name in described:
            rest = words.removeprefix(f"{name} ")
            if rest == words:
                continue
            for first in FEATURES[name]:
                second = rest.removeprefix(f"{first} ")
                if second != rest and second in FEATURES[name]:
                    found[name] = (first, second)
    return found


def _gold(pairs: PairedWords, described: Sequence[str]) -> np.ndarray | None:
    """Returns ``[pairs, described, 2]``, or None for words without parameters."""
    if pairs.words.parameters is None:
        return None
    places = [list(FEATURES).index(name) for name in described]
    values = features(pairs.words.parameters)[:, places]
    return np.stack([values[pairs.table.first], values[pairs.table.second]], axis=2)


def _suffix(target: str, same: bool, gold: Any, described: Sequence[str]) -> str:
    answer = ANSWERS[same]
    if target == "answer_only":
        return answer
    told = ";".join(
        f"{name} {FEATURES[name][first]} {FEATURES[name][second]}"
        for name, (first, second) in zip(described, gold, strict=True)
    )
    return {
        "caption": told,
        "explain_then_answer": f"{told};{answer}",
        "answer_then_explain": f"{answer};{told}",
    }[target]


def _answers(tokenizer: Tokenizer) -> np.ndarray:
    ids = [tokenizer.encode(answer) for answer in ANSWERS]
    if any(len(one) != 1 for one in ids):
        raise UserError(
            f"The tokeniser splits the answers {ANSWERS} into {ids}. Expected a "
            "tokeniser that has a token for each."
        )
    return np.array([one[0] for one in ids], np.int32)
