"""Tokenisers of vision-language models: a SentencePiece file, or plain bytes.

Both know the 1,024 places ``<loc0000>`` and 128 codes ``<seg000>`` of PaliGemma as
single tokens, and ``pack`` lays a prompt and a suffix out as that model reads them.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError

PAD, EOS, BOS, UNK = 0, 1, 2, 3
LOCATIONS, SEGMENTS = 1024, 128
# Of Gemma's vocabulary, which loc and seg tokens follow.
GEMMA_SIZE, GEMMA_NEWLINE, GEMMA_IMAGE = 256_000, 108, 257_152

_SPECIAL = re.compile(r"(<loc\d{4}>|<seg\d{3}>)")


class Tokenizer(Protocol):
    """Turns text into token ids and back.

    Attributes:
      size: ids are below it.
      image: the placeholder of an image token.
    """

    size: int
    image: int

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without the marks of its beginning and end."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids up to the first end, without padding."""


class ByteTokenizer:
    """One token for each byte of UTF-8, and one for each of a few given words.

    Ids are 0 to 3 for padding, end, beginning and unknown; 4 to 259 for bytes; then the
    words, the places, the codes and the image's placeholder. Needs no file.

    >>> tokenizer = ByteTokenizer(words=("same", "different"))
    >>> tokenizer.encode("same\\n<loc0512>")
    [260, 14, 774]
    >>> tokenizer.decode([260, 14, 774, 1, 9])
    'same\\n<loc0512>'
    """

    def __init__(self, words: Sequence[str] = ()):
        """Makes the table.

        Args:
          words: those that are one token wherever they stand, also inside others.

        Raises:
          UserError: if a word is empty or given twice.
        """
        if len(set(words)) != len(words) or not all(words):
            raise UserError(
                f"The words of the tokeniser are {', '.join(map(repr, words))}. "
                "Expected each once, and none empty."
            )
        names = [
            *words,
            *(f"<loc{i:04}>" for i in range(LOCATIONS)),
            *(f"<seg{i:03}>" for i in range(SEGMENTS)),
            "<image>",
        ]
        self._names = dict(enumerate(names, 260))
        self._ids = {name: number for number, name in self._names.items()}
        self.image = self._ids["<image>"]
        self.size = self.image + 1
        # Of words that begin alike, the longest.
        longest = sorted(words, key=len, reverse=True)
        choices = [*map(re.escape, longest), r"<loc\d{4}>", r"<seg\d{3}>"]
        self._split = re.compile(f"({'|'.join(choices)})")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; see ``Tokenizer``."""
        ids: list[int] = []
        for part in self._split.split(text):
            if part in self._ids and part != "<image>":
                ids.append(self._ids[part])
            else:
                ids += [4 + byte for byte in part.encode("utf-8")]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; see ``Tokenizer``. Broken UTF-8 is replaced."""
        out = b""
        for number in _until_end(ids):
            if 4 <= number < 260:
                out += bytes([number - 4])
            elif number in self._names:
                out += self._names[number].encode("utf-8")
        return out.decode("utf-8", errors="replace")


class SentencePieceTokenizer:
    """The tokeniser of published models, from their ``tokenizer.model``.

    Places and codes are cut out before the rest is encoded: the file may know them as
    pieces, or be Gemma's plain one of 256,000, in which case they follow its ids.
    """

    def __init__(self, path: str | Path):
        """Reads the file.

        Raises:
          UserError: if sentencepiece is not installed, the file is missing or damaged,
            or it numbers padding, end and beginning otherwise than PaliGemma does.
        """
        try:
            import sentencepiece
        except ImportError as error:
            raise UserError(
                "Reading a tokenizer.model needs the package sentencepiece: "
                "pip install -e '.[vlm]'"
            ) from error
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"There is no tokeniser {path}. Give the tokenizer.model of the model."
            )
        self._model = sentencepiece.SentencePieceProcessor()
        remedy = "Give the tokenizer.model of the model, not tokenizer.json."
        with parsing.parsing(path, "a SentencePiece model", remedy):
            self._model.LoadFromSerializedProto(path.read_bytes())
            count = self._model.GetPieceSize()
            # A damaged piece is no UTF-8, which the library itself does not check.
            for number in range(count):
                self._model.IdToPiece(number)
            self._check(path, count)
        baked = self._model.PieceToId("<loc0000>")
        self._knows = not self._model.IsUnknown(baked)
        self._first = baked if self._knows else count
        self._codes = self._first + LOCATIONS
        if self._knows:
            self._codes = self._model.PieceToId("<seg000>")
        after = max(count, self._codes + SEGMENTS)
        self.image = GEMMA_IMAGE if count >= GEMMA_SIZE else after
        self.size = max(after, self.image + 1)

    def _check(self, path: Path, count: int) -> None:
        model = self._model
        found = (model.pad_id(), model.eos_id(), model.bos_id(), model.unk_id())
        if found != (PAD, EOS, BOS, UNK):
            raise UserError(
                f"{path} numbers padding, end, beginning and unknown {found}. "
                f"Expected {(PAD, EOS, BOS, UNK)}, as PaliGemma does."
            )
        newline = model.EncodeAsIds("\n")
        if count >= GEMMA_SIZE and newline != [GEMMA_NEWLINE]:
            raise UserError(
                f"{path} encodes a line break as {newline}, expected "
                f"[{GEMMA_NEWLINE}]. It is not Gemma's tokeniser: give the one of "
                "the model."
            )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; see ``Tokenizer``."""
        ids: list[int] = []
        for part in _SPECIAL.split(text):
            if not _SPECIAL.fullmatch(part):
                ids += self._model.EncodeAsIds(part) if part else []
                continue
            number = int(part[4:-1])
            limit = LOCATIONS if part[1] == "l" else SEGMENTS
            if number < limit:
                ids.append((self._first if part[1] == "l" else self._codes) + number)
            else:
                ids += self._model.EncodeAsIds(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; see ``Tokenizer``."""
        text, run = "", []
        for number in _until_end(ids):
            name = self._name(number)
            if name is None:
                run.append(number)
                continue
            text += self._model.DecodeIds(run) + name
            run = []
        return text + self._model.DecodeIds(run)

    def _name(self, number: int) -> str | None:
        if self._first <= number < self._first + LOCATIONS:
            return f"<loc{number - self._first:04}>"
        if self._codes <= number < self._codes + SEGMENTS:
            return f"<seg{number - self._codes:03}>"
        return "" if number >= self._model.GetPieceSize() else None


class Packed(NamedTuple):
    """One sequence, as PaliGemma reads it.

    Attributes:
      tokens: int32 ``[length]``.
      causal: bool ``[length]``, True on the suffix and its end.
      valid: bool ``[length]``, False on padding.
    """

    tokens: np.ndarray
    causal: np.ndarray
    valid: np.ndarray


def pack(
    tokenizer: Tokenizer,
    prompt: str,
    suffix: str | None = None,
    *,
    image_tokens: int,
    length: int,
) -> Packed:
    """Lays out ``[image] [bos] [prompt] [newline] [suffix] [eos] [padding]``.

    The line break is encoded by itself: together with its neighbours it could become
    another token.

    Args:
      tokenizer: of the model.
      prompt: the text that asks.
      suffix: the answer, to train on or to score; None to ask for one.
      image_tokens: placeholders at the beginning.
      length: of the sequence.

    Raises:
      UserError: if the sequence is longer.
    """
    head = [tokenizer.image] * image_tokens + [BOS]
    head += tokenizer.encode(prompt) + tokenizer.encode("\n")
    tail = [] if suffix is None else [*tokenizer.encode(suffix), EOS]
    used = len(head) + len(tail)
    if used > length:
        raise UserError(
            f"The prompt {prompt[:40]!r} and its suffix take {used} tokens, of which "
            f"{image_tokens} are of the image, but sequences have {length}. Raise the "
            "length, or shorten the text."
        )
    tokens = np.full(length, PAD, np.int32)
    tokens[:used] = head + tail
    at = np.arange(length)
    return Packed(tokens, (at >= len(head)) & (at < used), at < used)


def _until_end(ids: Iterable[int]) -> Iterable[int]:
    for number in map(int, ids):
        if number == EOS:
            return
        if number not in (PAD, BOS):
            yield number
