"""CLIP's tokenizer, read from vocab.json and merges.txt; knows each token's word.

The byte-pair encoding is done by the package ``tokenizers`` (extra ``diffusion``).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core import files, parsing, schema
from jaxkd.core.errors import UserError

LENGTH, MAX_LENGTH = 77, 4096
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
# Contractions, runs of letters, single digits, runs of anything else that is no space.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_REMEDY = "Copy or download it again."
SPECIAL = -1  # the word of a start, end or padding token


class ClipTokenizer:
    """Turns prompts into token numbers of a fixed length.

    Attributes:
      vocabulary: token -> number.
      merges: the pairs that are joined, in their order.
      length: tokens of a row, with the start and the end.
      pad: the token that fills up rows; the end token in Stable Diffusion 1.x, ``"!"``
        in 2.x.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        length: int = LENGTH,
        pad: str = END,
    ):
        missing = [token for token in (START, END, pad) if token not in vocabulary]
        if missing:
            raise UserError(
                f"The vocabulary of {len(vocabulary)} tokens lacks {missing}. Expected "
                "CLIP's, which has the start, the end and the padding token."
            )
        self.vocabulary = dict(vocabulary)
        self.merges = tuple(tuple(pair) for pair in merges)
        self.length, self.pad = length, pad
        self._bpe = _byte_pairs(self.vocabulary, self.merges)

    @classmethod
    def load(cls, folder: str | Path) -> "ClipTokenizer":
        """Reads the folder ``tokenizer`` of a published pipeline.

        Raises:
          UserError: if a file is missing or damaged.
        """
        folder = Path(folder)
        for name in (VOCABULARY, MERGES):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} has no {name}. Expected {VOCABULARY} and {MERGES}, as "
                    "in the folder tokenizer of Stable Diffusion; copy it whole."
                )
        vocabulary = parsing.read_json(folder / VOCABULARY, "a vocabulary", _REMEDY)
        with parsing.parsing(folder / VOCABULARY, "a vocabulary", _REMEDY):
            schema.check(vocabulary, {...: int}, "the vocabulary")
        if not all(0 <= number < 1 << 31 for number in vocabulary.values()):
            raise UserError(
                f"{folder / VOCABULARY} has a number below 0 or above 2^31. {_REMEDY}"
            )
        text = parsing.read_text(folder / MERGES, "a list of merges", _REMEDY)
        lines = text.splitlines()
        split = [line.split() for line in lines if not _is_comment(line)]
        if any(len(pair) != 2 for pair in split):
            raise UserError(f"{folder / MERGES} has a line that is not two tokens.")
        pairs = [(first, second) for first, second in split]
        pad, length = _padding(folder), _length(folder)
        with parsing.parsing(folder, "CLIP's tokenizer", _REMEDY):
            return cls(vocabulary, pairs, pad=pad, length=length)

    def save(self, folder: str | Path) -> None:
        """Writes the folder that ``load`` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        files.write_text(folder / MERGES, "\n".join(lines) + "\n")
        specials = {"bos_token": START, "eos_token": END, "unk_token": END}
        settings = {
            **specials,
            "pad_token": self.pad,
            "model_max_length": self.length,
            "tokenizer_class": "CLIPTokenizer",
        }
        for name, content in (
            (VOCABULARY, self.vocabulary),
            ("special_tokens_map.json", {**specials, "pad_token": self.pad}),
            ("tokenizer_config.json", settings),
        ):
            text = json.dumps(content, ensure_ascii=False, indent=2)
            files.write_text(folder / name, text + "\n")

    def encode(
        self, prompts: str | Sequence[str], *, truncate: bool = False
    ) -> np.ndarray:
        """Returns token numbers ``[batch, length]``, int32.

        Args:
          prompts: one or several.
          truncate: whether a longer prompt loses its end; the end token stays.

        Raises:
          UserError: for a longer prompt, without ``truncate``, or one that is no text.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [self._row(prompt, truncate)[0] for prompt in prompts]
        return np.array(rows, np.int32).reshape(-1, self.length)

    def words(self, prompt: str, *, truncate: bool = False) -> np.ndarray:
        """Returns for each token the number of its word in ``prompt.split()``.

        ``SPECIAL`` for the start, the end and the padding; int32 ``[length]``.
        """
        return np.array(self._row(prompt, truncate)[1], np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token numbers, without the special ones."""
        names = {number: token for token, number in self.vocabulary.items()}
        special = {self.vocabulary[token] for token in (START, END, self.pad)}
        text = "".join(names[int(i)] for i in ids if int(i) not in special)
        return text.replace("</w>", " ").strip()

    def _row(self, prompt: str, truncate: bool) -> tuple[list[int], list[int]]:
        if not isinstance(prompt, str):
            raise UserError(f"A prompt is {prompt!r}; expected text.")
        with parsing.parsing("The prompt", "text", "Write it in Unicode."):
            encoding = self._bpe.encode(prompt, add_special_tokens=False)
        words = _words_of(prompt, encoding.offsets)
        room = self.length - 2
        if len(encoding.ids) > room and not truncate:
            raise UserError(
                f"The prompt {prompt[:60]!r}... has {len(encoding.ids)} tokens; at "
                f"most {room} fit beside the start and the end. Shorten it, or cut it "
                "with truncate=True."
            )
        ids, words = encoding.ids[:room], words[:room]
        start, end, pad = (self.vocabulary[t] for t in (START, END, self.pad))
        fill = self.length - 2 - len(ids)
        return (
            [start, *ids, end, *[pad] * fill],
            [SPECIAL, *words, SPECIAL, *[SPECIAL] * fill],
        )


def _byte_pairs(vocabulary: dict[str, int], merges: Sequence[Any]) -> Any:
    try:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    except ImportError as error:
        raise UserError(
            "Prompts are split by the package tokenizers, which is not installed. "
            "Install it with: pip install 'jaxkd[diffusion]'"
        ) from error
    model = models.BPE(
        vocab=vocabulary,
        merges=list(merges),
        unk_token=END,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
    )
    bpe = Tokenizer(model)
    bpe.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return bpe


def _words_of(prompt: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Returns the number of the word that each piece of the prompt lies in."""
    starts, inside = [], False
    for i, character in enumerate(prompt):
        if not character.isspace() and not inside:
            starts.append(i)
        inside = not character.isspace()
    return [int(np.searchsorted(starts, begin, "right")) - 1 for begin, _ in offsets]


def _is_comment(line: str) -> bool:
    # Only the first line is a comment; "#" is also a token that is merged.
    return not line.strip() or line.startswith("#version")


def _padding(folder: Path) -> str:
    for name in _SETTINGS:
        if (folder / name).is_file():
            token = _settings(folder / name).get("pad_token")
            if isinstance(token, dict):
                token = token.get("content")
            if token:
                return str(token)
    return END


def _length(folder: Path) -> int:
    path = folder / "tokenizer_config.json"
    settings = _settings(path) if path.is_file() else {}
    length = settings.get("model_max_length", LENGTH)
    if not isinstance(length, int) or not 2 < length <= MAX_LENGTH:
        raise UserError(
            f"{path} has the model_max_length {length!r}, expected 3 to "
            f"{MAX_LENGTH:,}. {_REMEDY}"
        )
    return length


def _settings(path: Path) -> dict[str, Any]:
    found = parsing.read_json(path, "settings of a tokenizer", _REMEDY)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no object of JSON. {_REMEDY}")
    return found
