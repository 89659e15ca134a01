"""Lines of text from files: TextZoom's LMDB folders, or folders with a label table.

``root/train1``, ``root/train2`` (or ``root/train``) and ``root/test/easy``, ``medium``,
``hard`` (or ``root/test``) are each an LMDB folder (``jaxkd.readers.text_lmdb``), or a
folder of images with ``labels.csv``: a line ``file,text`` for each image. Lines in
other folders beside them are refused rather than passed over.

Fields: ``image`` uint8, ``low`` uint8 where there are small images, ``tokens`` int32
``[slots]``, ``length`` int32, and ``group`` int32, the place of the test folder.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Example, Info
from jaxkd.metrics.text import ALPHABET
from jaxkd.readers import listing
from jaxkd.readers.images import IMAGENET_MEAN, IMAGENET_STD, decode, resize
from jaxkd.readers.text_lmdb import Line, TextLmdb

TRAIN, TESTS = ("train1", "train2", "train"), ("easy", "medium", "hard")
TABLE, DATABASE = "labels.csv", "data.mdb"
LEFT_BY_ARCHIVES = ("__MACOSX",)
UNKNOWN = ("error", "drop")


class TableFolder:
    """Images of a folder and their text, by ``labels.csv``."""

    def __init__(self, folder: Path):
        """Reads the table.

        Raises:
          UserError: if a row is no pair, names a missing file, or contradicts one
            before it.
        """
        self.folder, self.rows = folder, []
        texts: dict[str, str] = {}
        remedy = "Expected file,text in each line."
        rows = parsing.read_rows(folder / TABLE, "CSV", remedy)
        for number, row in enumerate(rows, start=1):
            if len(row) != 2:
                raise UserError(
                    f"{folder / TABLE}, line {number}: {len(row)} columns, "
                    "expected two, file,text. Put text with commas in quotes."
                )
            if not parsing.is_file(folder / row[0]):
                raise UserError(
                    f"{folder / TABLE}, line {number} names {row[0]!r}, which does "
                    f"not exist in {folder}."
                )
            if texts.setdefault(row[0], row[1]) != row[1]:
                raise UserError(
                    f"{folder / TABLE}, line {number}: {row[0]!r} is {row[1]!r}, and "
                    f"in a line before {texts[row[0]]!r}. Expected one text per image."
                )
            self.rows.append((row[0], row[1]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Line:
        file, text = self.rows[index]
        return Line(decode(self.folder / file), None, text)


class LineSource:
    """The lines of several folders, one after another, as examples.

    ``groups`` are the folders' names, in the order of the field ``group``.
    """

    def __init__(self, parts: Sequence, alphabet: str, slots: int, unknown: str):
        self.parts, self.alphabet, self.slots = parts, alphabet, slots
        self.unknown = unknown
        self.ends = np.cumsum([len(part) for part in parts])
        self.groups = tuple(Path(part.folder).name for part in parts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Example:
        group = int(np.searchsorted(self.ends, index, "right"))
        first = self.ends[group - 1] if group else 0
        line = self.parts[group][int(index - first)]
        where = f"{self.parts[group].folder}, line {index - first + 1}"
        tokens, length = encode(
            line.text, self.alphabet, self.slots, where, self.unknown
        )
        example = {"image": line.image, "tokens": tokens, "length": length}
        if line.low is not None:
            example["low"] = line.low
        return example | {"group": np.asarray(group, np.int32)}


def encode(
    text: str, alphabet: str, slots: int, where: str, unknown: str = "error"
) -> tuple[np.ndarray, np.ndarray]:
    """Turns text into class numbers, ``(tokens [slots], length)``.

    Args:
      text: capitals are read as small letters where the alphabet has none.
      alphabet: of the characters.
      slots: characters at most, and the end.
      where: the line is, for the error message.
      unknown: ``"error"``, or ``"drop"`` to leave out other characters, as the TextZoom
        protocol does.

    Raises:
      UserError: if the text is too long or has unknown characters.
    """
    if not any(c.isupper() for c in alphabet):
        text = text.lower()
    strange = sorted({c for c in text if c not in alphabet})
    if strange and unknown == "error":
        raise UserError(
            f"{where}: {text!r} has the characters {' '.join(strange)}, expected those "
            f"of {alphabet!r}. Set config.data.alphabet, or config.data.unknown to "
            "'drop', which leaves them out."
        )
    places = [alphabet.index(c) + 1 for c in text if c in alphabet]
    if len(places) >= slots:
        raise UserError(
            f"{where}: {text!r} has {len(places)} characters, expected at most "
            f"{slots - 1}. Set config.data.slots and config.model.slots."
        )
    tokens = np.zeros(slots, np.int32)
    tokens[: len(places)] = places
    return tokens, np.asarray(len(places) + 1, np.int32)


def load(
    root: str,
    height: int = 32,
    width: int = 128,
    slots: int = 26,
    alphabet: str = ALPHABET,
    unknown: str = "error",
    factor: int = 2,
) -> Dataset:
    """Opens the folders; no image is decoded yet.

    Images are resized to one size, and small ones to a fraction of it.

    Args:
      root: folder, see above.
      height: of the large images.
      width: likewise.
      slots: see ``encode``.
      alphabet: likewise.
      unknown: likewise.
      factor: between large and small sides, where the data have small images.

    Raises:
      UserError: if a folder is missing, empty or of another kind, lines lie in a folder
        that none is read from, or an option is out of its range.
    """
    if unknown not in UNKNOWN:
        raise UserError(f"unknown is {unknown!r}, expected 'error' or 'drop'.")
    if len(set(alphabet)) != len(alphabet) or not alphabet:
        raise UserError(f"alphabet is {alphabet!r}, expected different characters.")
    top = Path(root).expanduser()
    train = [_open(top / name) for name in TRAIN if _is_folder(top / name)]
    tests = [top / "test" / name for name in TESTS if _is_folder(top / "test" / name)]
    _refuse_unread(top, bool(tests))
    tests = tests or [path for path in [top / "test"] if _is_folder(path)]
    if not train or not tests:
        raise UserError(
            f"{top.absolute()} has {len(train)} training folders and {len(tests)} test "
            f"folders, expected {' or '.join(TRAIN)}, and test or "
            f"test/<{'|'.join(TESTS)}>. Set config.data.root."
        )
    sources = [
        LineSource(parts, alphabet, slots, unknown)
        for parts in (train, [_open(path) for path in tests])
    ]
    info, fields = describe_examples(
        top.name,
        height,
        width,
        slots,
        alphabet,
        factor=factor if "low" in sources[0][0] else 0,
    )

    def prepare(example: Example, rng: np.random.Generator | None = None) -> Example:
        del rng
        sized = {"image": resize(example["image"], (height, width))}
        if "low" in fields:
            if "low" not in example:
                raise UserError(f"{top}: some lines have small images, some have none.")
            small = (height // factor, width // factor)
            sized["low"] = resize(example["low"], small)
        return {name: (example | sized)[name] for name in fields}

    return Dataset(info, lambda seed: sources[0], sources[1], prepare, prepare, fields)


def describe_examples(
    name: str,
    height: int = 32,
    width: int = 128,
    slots: int = 26,
    alphabet: str = ALPHABET,
    *,
    factor: int = 2,
):
    """Returns the description, and the fields of a prepared example.

    Args:
      name: of the data set.
      height: see ``load``.
      width: likewise.
      slots: likewise.
      alphabet: likewise.
      factor: likewise; 0 where there are no small images.
    """
    shape = (height, width, 3)
    fields = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "tokens": jax.ShapeDtypeStruct((slots,), np.int32),
        "length": jax.ShapeDtypeStruct((), np.int32),
        "group": jax.ShapeDtypeStruct((), np.int32),
    }
    if factor:
        small = (height // factor, width // factor, 3)
        fields["low"] = jax.ShapeDtypeStruct(small, np.uint8)
    names = ("end", *alphabet)
    return Info(name, len(names), shape, IMAGENET_MEAN, IMAGENET_STD, names), fields


def _is_folder(path: Path) -> bool:
    return path.is_dir()


def _refuse_unread(top: Path, by_set: bool) -> None:
    """Refuses lines that would be passed over: a mistyped set shortens no test.

    Args:
      top: the root.
      by_set: whether the test folders are those of ``TESTS``.

    Raises:
      UserError: if there is another folder in ``test``, or one of lines in the root, or
        ``test`` has both lines and sets of them.
    """
    unread = [top / name for name in _folders(top) if name not in (*TRAIN, "test")]
    unread = [path for path in unread if _holds_lines(path)]
    test = top / "test"
    if not _holds_lines(test):
        unread += [test / name for name in _folders(test) if name not in TESTS]
    elif by_set:
        unread.append(test)
    if unread:
        raise UserError(
            f"{', '.join(map(str, unread))}: no line would be read from there. "
            f"Expected {', '.join(TRAIN)} in the root, and either test or "
            f"test/<{'|'.join(TESTS)}>. Rename what is to be read, and move the rest "
            "out of the root."
        )


def _folders(folder: Path) -> list[str]:
    """Lists the names of a folder's folders, without those that archives leave."""
    if not folder.is_dir():
        return []
    return [
        name
        for name in listing.entries(folder)
        if name not in LEFT_BY_ARCHIVES and (folder / name).is_dir()
    ]


def _holds_lines(folder: Path) -> bool:
    return (folder / DATABASE).is_file() or (folder / TABLE).is_file()


def _open(folder: Path) -> TextLmdb | TableFolder:
    """Opens a folder as what its files are.

    Raises:
      UserError: if it is neither, or empty.
    """
    if (folder / DATABASE).is_file():
        found: TextLmdb | TableFolder = TextLmdb(folder)
    elif (folder / TABLE).is_file():
        found = TableFolder(folder)
    else:
        raise UserError(
            f"{folder} has neither {DATABASE} nor {TABLE}, expected an LMDB folder of "
            f"text lines, or images with {TABLE} (file,text on each line)."
        )
    if not len(found):
        raise UserError(f"{folder} has no lines, expected at least one.")
    return found
