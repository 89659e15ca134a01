"""Reads folders of handwritten words, and makes pairs of their writers.

Layouts: ``root/<writer>/*.png``; the same below ``train`` and ``test``, with or without
a ``supervised`` folder around them, as the AND images of CEDAR are kept; or a flat
folder of files named as CEDAR's, ``0001a_num2.png``: writer, page, sample.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from jaxkd.core import optional, parsing, tables
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.readers import listing
from jaxkd.readers.images import SUFFIXES, decode, resize

CEDAR_NAME = re.compile(r"(\d{4})[a-z]_num\d+\.png", re.IGNORECASE)
LAYOUTS = (
    "Expected root/<writer>/*.png, or root/{train,test}/<writer>/*.png (also below "
    "root/supervised), or files named like 0001a_num2.png."
)
UNLABELLED = "unsupervised"  # folder of pictures without a writer
_REMEDY = "Write it again with write_pairs."


class Words(NamedTuple):
    """Pictures of words with their writers.

    Attributes:
      image: uint8 ``[n, side, side, 1]``, dark on white.
      writer: int32 ``[n]``.
      names: of the writers, one per number.
      files: of the pictures, relative to the root; empty if they were drawn.
      parameters: float32 ``[n, k]``, gold attributes of drawn words, or None.
    """

    image: np.ndarray
    writer: np.ndarray
    names: tuple[str, ...]
    files: tuple[str, ...] = ()
    parameters: np.ndarray | None = None

    def rows(self, chosen: np.ndarray) -> "Words":
        """Returns some of the pictures, by their places."""
        files = tuple(self.files[i] for i in chosen) if self.files else ()
        parameters = None if self.parameters is None else self.parameters[chosen]
        return Words(
            self.image[chosen], self.writer[chosen], self.names, files, parameters
        )


class PairedWords(ArraySource):
    """Pairs of words in memory, with the words that they were made of."""

    def __init__(self, words: Words, table: "PairTable"):
        super().__init__(
            {
                "image": words.image[table.first],
                "other": words.image[table.second],
                "label": table.same.astype(np.int32),
                "writers": np.stack(
                    [words.writer[table.first], words.writer[table.second]], axis=1
                ),
            }
        )
        self.words, self.table = words, table


class PairTable(NamedTuple):
    """Pairs of samples: places of both, and whether one writer wrote them."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


def read_folder(root: Path, side: int) -> tuple[Words, Words | None]:
    """Reads a folder of words.

    Args:
      root: see the module for its layouts.
      side: of the pictures; others are padded with white to squares and resized.

    Returns:
      All words, or, where the folder is split into ``train`` and ``test``, those of
      either; writers are numbered over both.

    Raises:
      UserError: if there is no such folder or no picture, a name is none of CEDAR's in
        a flat folder, a file is no image, or a writer or picture is on both sides.
    """
    if not root.is_dir():
        raise UserError(f"{root.absolute()} is no folder. {LAYOUTS}")
    top = root / "supervised" if (root / "supervised").is_dir() else root
    if not (top / "train").is_dir():
        listed = _list(top)
        return _read(root, listed, _names(listed), side), None
    if not (top / "test").is_dir():
        raise UserError(f"{top} has train but no test folder. {LAYOUTS}")
    sides = [_list(top / part) for part in ("train", "test")]
    names = _names([*sides[0], *sides[1]])
    train, test = (_read(root, listed, names, side) for listed in sides)
    shared = sorted(set(train.writer.tolist()) & set(test.writer.tolist()))
    if shared:
        raise UserError(
            f"Writer {names[shared[0]]!r} is in both train and test of {top} "
            f"({len(shared)} such writers), so the test would not be of unseen hands. "
            "Move each writer to one side."
        )
    check_leakage(train, test)
    return train, test


def read_unlabelled(root: Path, side: int) -> np.ndarray | None:
    """Reads the pictures of ``root/unsupervised``, if there is such a folder."""
    folder = root / UNLABELLED
    if not folder.is_dir():
        return None
    paths = listing.named(folder, SUFFIXES)
    if not paths:
        raise UserError(f"{folder} holds no pictures. Add some or remove the folder.")
    return np.stack([picture(path, side) for path in paths])


def picture(path: Path, side: int) -> np.ndarray:
    """Reads an image file as uint8 ``[side, side, 1]``, padded with white."""
    grey = decode(path).mean(axis=-1, keepdims=True)
    height, width = grey.shape[:2]
    longest = max(height, width)
    down, across = longest - height, longest - width
    padding = ((down // 2, down - down // 2), (across // 2, across - across // 2))
    square = np.pad(grey, (*padding, (0, 0)), constant_values=255)
    square = np.round(square).astype(np.uint8)
    if longest == side:
        return square
    return resize(np.repeat(square, 3, axis=-1), (side, side))[..., :1]


def _list(top: Path) -> list[tuple[str, Path]]:
    """Lists (writer, file) of a folder of writers, or of a flat folder."""
    inside = [top / n for n in listing.entries(top) if n != UNLABELLED]
    folders = [path for path in inside if path.is_dir()]
    loose = [path for path in inside if not path.is_dir()]
    if loose and folders:
        raise UserError(
            f"{top} has folders and also files such as {loose[0].name}. {LAYOUTS}"
        )
    if loose:
        wrong = [p.name for p in loose if not CEDAR_NAME.fullmatch(p.name)]
        if wrong:
            raise UserError(
                f"{top / wrong[0]} is not named like 0001a_num2.png (four digits of "
                f"the writer, a letter of the page, the sample), {len(wrong)} such "
                "files. Rename them, or put each writer's into a folder."
            )
        return [(p.name[:4], p) for p in loose]
    found = []
    for folder in folders:
        files = [folder / name for name in listing.entries(folder)]
        others = [p for p in files if not p.name.lower().endswith(SUFFIXES)]
        if others or not files:
            raise UserError(
                f"{others[0] if others else folder} is "
                f"{'no image by its name' if others else 'empty'}. {LAYOUTS}"
            )
        found += [(folder.name, path) for path in files]
    if not found:
        raise UserError(f"{top} holds no pictures. {LAYOUTS}")
    return found


def _names(listed: Sequence[tuple[str, Path]]) -> tuple[str, ...]:
    return tuple(sorted({writer for writer, _ in listed}))


def _read(root: Path, listed, names: tuple[str, ...], side: int) -> Words:
    numbers = {name: number for number, name in enumerate(names)}
    return Words(
        np.stack([picture(path, side) for _, path in listed]),
        np.array([numbers[writer] for writer, _ in listed], np.int32),
        names,
        tuple(str(path.relative_to(root)) for _, path in listed),
    )


def check_leakage(train: Words, test: Words) -> None:
    """Refuses sides that share a picture, whatever it is called.

    Raises:
      UserError: if they do.
    """
    known = {digest(image): i for i, image in enumerate(train.image)}
    for place, image in enumerate(test.image):
        twin = known.get(digest(image))
        if twin is not None:
            names = [
                words.files[i] if words.files else f"picture {i}"
                for words, i in ((train, twin), (test, place))
            ]
            raise UserError(
                f"{names[0]} and {names[1]} are the same picture, on both sides of "
                "the split. Remove one of them."
            )


def digest(image: np.ndarray) -> bytes:
    """Returns what equal pictures share, whatever they are called."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()


def check_samples(words: Words, what: str) -> None:
    """Refuses writers of whom there is one picture: they make no pair.

    Raises:
      UserError: if there is one.
    """
    counts = np.bincount(words.writer, minlength=len(words.names))
    single = np.flatnonzero(counts == 1)
    if single.size:
        raise UserError(
            f"Writer {words.names[single[0]]!r} of the {what} has one picture only "
            f"({single.size} such writers), expected at least two for a pair of one "
            "hand. Add pictures, remove them, or set drop_single=True."
        )


def make_pairs(
    writers: np.ndarray,
    *,
    seed: int,
    max_positives: int | None = None,
    balance: bool = True,
) -> PairTable:
    """Makes pairs of one writer and as many of two.

    Positives are all pairs of a writer's samples; each has a negative: its first sample
    with a random one of another writer.

    Args:
      writers: ``[n]``, of each sample.
      seed: of the drawing; the same seed gives the same table.
      max_positives: of each writer, drawn at random; None takes all.
      balance: whether there is one negative for each positive; otherwise all pairs of
        two writers are negatives.

    Returns:
      The table; ``first`` and ``second`` are places in ``writers``.

    Raises:
      UserError: if there is no pair of one writer, or one writer only.
    """
    writers, rng = np.asarray(writers), np.random.default_rng(seed)
    first, second = [], []
    for writer in np.unique(writers):
        places = np.flatnonzero(writers == writer)
        pairs = np.stack(np.triu_indices(len(places), k=1))
        if max_positives is not None and pairs.shape[1] > max_positives:
            chosen = rng.choice(pairs.shape[1], max_positives, replace=False)
            pairs = pairs[:, np.sort(chosen)]
        first.append(places[pairs[0]])
        second.append(places[pairs[1]])
    a, b = np.concatenate(first), np.concatenate(second)
    if not len(a) or len(first) < 2:
        raise UserError(
            f"{len(first)} writers with {len(a)} pairs of one hand: expected at least "
            "two writers, one of them with two samples."
        )
    if balance:
        other = [rng.choice(np.flatnonzero(writers != writers[i])) for i in a]
        c, d = a, np.array(other)
    else:
        c, d = np.triu_indices(len(writers), k=1)
        apart = writers[c] != writers[d]
        c, d = c[apart], d[apart]
    same = np.repeat([True, False], [len(a), len(c)])
    return PairTable(np.concatenate([a, c]), np.concatenate([b, d]), same)


def split(
    writers: np.ndarray,
    mode: str,
    *,
    share: float,
    seed: int,
    order: str = "permuted",
) -> tuple[np.ndarray, np.ndarray]:
    """Splits samples into a training and a test side.

    Args:
      writers: ``[n]``, of each sample.
      mode: ``"unseen"``: no writer on both sides; ``"seen"``: all writers on both, each
        with some samples; ``"shuffled"``: half of the test's writers also train, with
        other samples. Shaikh et al. (arXiv:1812.02621).
      share: of the writers, or of each writer's samples, that are for the test.
      seed: of the drawing.
      order: ``"permuted"`` draws writers, ``"sorted"`` takes the last ones.

    Returns:
      The places of both sides.

    Raises:
      UserError: if mode or order is unknown, or a side would be empty.
    """
    rng, names = np.random.default_rng(seed), np.unique(writers)
    if mode not in ("unseen", "seen", "shuffled") or order not in (
        "permuted",
        "sorted",
    ):
        raise UserError(
            f"split is {mode!r} and order {order!r}, expected 'unseen', 'seen' or "
            "'shuffled', and 'permuted' or 'sorted'."
        )
    names = rng.permutation(names) if order == "permuted" else names
    count = round(share * len(names))
    if mode != "seen" and not 0 < count < len(names):
        raise UserError(
            f"test_share is {share}: {count} of {len(names)} writers, expected at "
            "least one on either side."
        )
    tested = names if mode == "seen" else names[len(names) - count :]
    halved = {"unseen": names[:0], "seen": names, "shuffled": tested[: count // 2]}
    in_test = np.isin(writers, tested)
    for writer in halved[mode]:
        places = rng.permutation(np.flatnonzero(writers == writer))
        cut = max(round(share * len(places)), 1) if mode == "seen" else len(places) // 2
        in_test[places[cut:]] = False
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


COLUMNS = ("sample1", "sample2", "label")


def write_pairs(path: Path, table: PairTable, files: Sequence[str]) -> None:
    """Writes pairs of files as ``sample1,sample2,label``, CSV or Parquet by its name.

    Raises:
      UserError: if the name ends otherwise.
    """
    columns = (
        [files[i] for i in table.first],
        [files[i] for i in table.second],
        table.same.astype(int).tolist(),
    )
    if path.suffix == ".parquet":
        content = _load("pyarrow").table(dict(zip(COLUMNS, columns, strict=True)))
        _load("pyarrow.parquet").write_table(content, path, write_page_checksum=True)
        return
    _check_suffix(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        tables.CsvWriter(file).writerows([COLUMNS, *zip(*columns, strict=True)])


def read_pairs(path: Path, files: Sequence[str]) -> PairTable:
    """Reads pairs as ``write_pairs`` writes them.

    Raises:
      UserError: if it cannot be read, has no pair, or other columns or unknown files.
    """
    if path.suffix == ".parquet":
        parquet = _load("pyarrow.parquet")
        with parsing.parsing(path, "a Parquet table of pairs", _REMEDY):
            content = parquet.read_table(path, page_checksum_verification=True)
            content = content.to_pydict()
            rows = [list(r) for r in zip(*(content[c] for c in COLUMNS), strict=True)]
    else:
        _check_suffix(path)
        header, *rows = parsing.read_rows(path, "CSV", _REMEDY) or [[]]
        if tuple(header) != COLUMNS:
            raise UserError(
                f"{path} has columns {', '.join(header)}, expected "
                f"{', '.join(COLUMNS)}."
            )
    if not rows:
        raise UserError(f"{path} has no pair, expected one on each line. {_REMEDY}")
    places = {tables.cell(name): place for place, name in enumerate(files)}
    places |= {name: place for place, name in enumerate(files)}
    for line, row in enumerate(rows, start=2):
        absent = [name for name in row[:2] if name not in places]
        if len(row) != len(COLUMNS) or absent or str(row[2]) not in ("0", "1"):
            raise UserError(
                f"{path}, row {line}, is {tuple(row)}, expected two known files and a "
                "label 0 or 1."
            )
    first, second = (np.array([places[r[i]] for r in rows], int) for i in (0, 1))
    return PairTable(first, second, np.array([str(r[2]) == "1" for r in rows]))


def _check_suffix(path: Path) -> None:
    if path.suffix != ".csv":
        raise UserError(f"{path} ends in {path.suffix!r}, expected .csv or .parquet.")


def _load(name: str) -> ModuleType:
    return optional.load(name, extra="handwriting", purpose="Parquet tables of pairs")
