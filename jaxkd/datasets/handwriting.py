"""Handwritten words: drawn writers, the AND images of CEDAR, folders of writers.

For pre-training (``task="images"``) all training writers' words, whose labels are used
by nothing but evaluation. For verification (``task="pairs"``) pairs of words and
whether one hand wrote them, of a share of the training writers; every training seed
draws its own. Test writers are the same for both and, by default, in no training.
"""

import functools
import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.datasets import handwriting_tables
from jaxkd.drawing.handwriting import draw_writers
from jaxkd.readers import handwriting as reading
from jaxkd.readers.handwriting import PairedWords, Words

FIRST_TEST, FIRST_VALIDATION = 100_000, 200_000  # numbers of drawn writers


def load(
    root: str | None = None,
    task: str = "images",
    size: int = 64,
    labelled: float = 1.0,
    evaluate_on: str = "test",
    split: str = "unseen",
    test_share: float = 0.2,
    order: str = "permuted",
    max_positives: int | None = None,
    test_pairs: int = 3_000,
    drop_single: bool = False,
    train_table: str = "",
    test_table: str = "",
    attributes: bool = False,
    writers: int = 200,
    test_writers: int = 60,
    samples: int = 10,
    intra: float = 0.5,
    inter: float = 1.0,
    cache: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Makes the data set.

    Args:
      root: a folder, see ``jaxkd.readers.handwriting`` for its layouts; None draws
        writers, see ``jaxkd.drawing.handwriting``.
      task: ``"images"``: fields ``image`` and ``label``, the writer; ``"pairs"``:
        ``image`` and ``other``, ``label`` 1 for one hand, ``writers`` of both.
      size: side of the pictures.
      labelled: share of the training writers of whom pairs are made.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings: other drawn
        writers, or a fifth of a folder's training writers, which then do not train.
      split: of a folder without ``train`` and ``test``, see ``reading.split``.
      test_share: of writers or samples, likewise.
      order: ``"permuted"`` draws labelled and test writers, ``"sorted"`` takes them in
        the order of their names.
      max_positives: pairs of one hand of each training writer; None takes all.
      test_pairs: most pairs to test, half of them of one hand.
      drop_single: whether writers of whom there is one picture are left out, instead of
        refused, for pairs.
      train_table: file of the training pairs of a folder's pictures, instead of those
        that would be made; see ``jaxkd.datasets.handwriting_tables``.
      test_table: likewise; both, or none. For ``task="images"`` the words are those
        that the tables name.
      attributes: whether drawn words carry their ``parameters``.
      writers: drawn for training.
      test_writers: drawn for the test.
      samples: drawn of each.
      intra: see ``draw_writers``: the difficulty.
      inter: likewise.
      cache: folder to keep drawn words in; None draws them each time.
      seed: of drawing, splitting and test pairs.

    Raises:
      UserError: if an option is out of its range, or for whatever is wrong with the
        folder.
    """
    lookup.choose(task, dict.fromkeys(("images", "pairs")), what="task")
    lookup.choose(
        evaluate_on, dict.fromkeys(("test", "validation")), what="evaluate_on"
    )
    if not 0 < labelled <= 1:
        raise UserError(f"labelled is {labelled}, expected a share above 0, up to 1.")
    if train_table or test_table:
        made = {"labelled": labelled != 1, "max_positives": max_positives is not None}
        made["evaluate_on"] = evaluate_on != "test"
        _check_tables(root, train_table, test_table, made)
        tables = handwriting_tables.read(
            Path(str(root)), size, train_table, test_table, split
        )
        info = _info(Path(str(root)).absolute().name, size)
        if task == "pairs":
            return Dataset(info, lambda seed: tables.train, tables.test)
        extra = read_unlabelled(root, size)
        return _images(info, tables.train.words, tables.test.words, False, extra)
    if root is None:
        drawn = functools.partial(_draw, size, samples, intra, inter, seed, cache)
        train = drawn(0, writers)
        first = FIRST_TEST if evaluate_on == "test" else FIRST_VALIDATION
        test, name = drawn(first, test_writers), "drawn handwriting"
    else:
        if attributes:
            raise UserError("attributes=True needs drawn words: leave out root.")
        train, test = _folder(root, size, split, test_share, order, seed)
        if evaluate_on == "validation":
            train, test = _sides(train, "unseen", 0.2, order, seed + 1)
        name = Path(root).absolute().name
    info = _info(name, size)
    if task == "images":
        extra = read_unlabelled(root, size)
        return _images(info, train, test, attributes, extra)
    options = (labelled, order, max_positives, drop_single)
    return _pairs(info, train, test, options, test_pairs, seed)


def _info(name: str, size: int) -> Info:
    # Labels are writers or yes and no: no classes of a classifier.
    return Info(name, 0, (size, size, 1), (0.0,), (1.0,), ())


def _check_tables(root, train: str, test: str, made: dict[str, bool]) -> None:
    """Refuses one table without the other, and options of pairs that are made."""
    if root is None or not (train and test):
        raise UserError(
            f"train_table is {train!r}, test_table {test!r} and root {root!r}, "
            "expected all three: tables name the pictures of a folder."
        )
    wrong = [name for name, changed in made.items() if changed]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)} choose among pairs that are made, but pairs are read "
            f"from {train}. Leave them at their defaults (labelled=1.0)."
        )


def read_unlabelled(root: str | None, size: int) -> np.ndarray | None:
    """Returns the pictures of a folder ``unsupervised``, if the root has one."""
    return None if root is None else reading.read_unlabelled(Path(root), size)


def _images(info, train: Words, test: Words, attributes: bool, extra) -> Dataset:
    def arrays(words: Words) -> dict[str, np.ndarray]:
        found = {"image": words.image, "label": words.writer}
        if attributes and words.parameters is not None:
            found["parameters"] = words.parameters
        return found

    # Pictures without a writer are not labelled; nor, then, are the others.
    whole = arrays(train) if extra is None else {"image": _unseen(extra, test)}
    return Dataset(info, lambda seed: ArraySource(whole), ArraySource(arrays(test)))


def _unseen(extra: np.ndarray, test: Words) -> np.ndarray:
    """Leaves out pictures of the test, which a copy of all words would train on."""
    tested = {reading.digest(image) for image in test.image}
    kept = extra[[reading.digest(image) not in tested for image in extra]]
    if not len(kept):
        raise UserError(
            f"All {len(extra)} pictures of {reading.UNLABELLED} are also in the test, "
            "so that none is left to train on. Add others, or remove the folder."
        )
    if len(kept) < len(extra):
        warnings.warn(
            f"{len(extra) - len(kept)} of {len(extra)} pictures of "
            f"{reading.UNLABELLED} are also in the test and are left out of training.",
            stacklevel=2,
        )
    return kept


def _pairs(info, train: Words, test: Words, options, count: int, seed) -> Dataset:
    labelled, order, max_positives, drop_single = options
    train, test = (
        _drop_single(words, side, drop_single)
        for words, side in ((train, "training"), (test, "test"))
    )

    def labelled_pairs(training_seed: int) -> PairedWords:
        names = np.unique(train.writer)
        if order == "permuted":
            names = np.random.default_rng([seed, training_seed]).permutation(names)
        # Rounded first: 0.07 * 100 is a little above 7.
        chosen = names[: max(math.ceil(round(labelled * len(names), 6)), 2)]
        places = np.flatnonzero(np.isin(train.writer, chosen))
        words = train.rows(places)
        table = reading.make_pairs(
            words.writer, seed=training_seed, max_positives=max_positives
        )
        return PairedWords(words, table)

    table = reading.make_pairs(test.writer, seed=seed)
    half = count // 2
    rng = np.random.default_rng(seed)
    places = [
        np.sort(rng.permutation(np.flatnonzero(table.same == same))[:half])
        for same in (True, False)
    ]
    # Mixed, so that the first of them, whose explanations are read, are of both kinds.
    mixed = rng.permutation(np.concatenate(places))
    some = reading.PairTable(*(x[mixed] for x in table))
    return Dataset(info, labelled_pairs, PairedWords(test, some))


def _drop_single(words: Words, side: str, drop: bool) -> Words:
    if not drop:
        reading.check_samples(words, side)
        return words
    counts = np.bincount(words.writer, minlength=len(words.names))
    return words.rows(np.flatnonzero(counts[words.writer] > 1))


def _folder(root, size, split, share, order, seed) -> tuple[Words, Words]:
    train, test = _read(root, size)
    if test is not None:
        return train, test
    return _sides(train, split, share, order, seed)


@functools.lru_cache(maxsize=2)  # a run of several stages reads the same folder
def _read(root: str, size: int) -> tuple[Words, Words | None]:
    return reading.read_folder(Path(root).expanduser(), size)


def _sides(words: Words, mode, share, order, seed) -> tuple[Words, Words]:
    train, test = (
        words.rows(places)
        for places in reading.split(
            words.writer, mode, share=share, seed=seed, order=order
        )
    )
    reading.check_leakage(train, test)
    return train, test


@functools.lru_cache(maxsize=4)
def _draw(
    size: int,
    samples: int,
    intra: float,
    inter: float,
    seed: int,
    cache: str | None,
    first: int,
    count: int,
) -> Words:
    """Draws words, or reads those that an earlier run drew alike."""
    options: dict[str, Any] = {
        "writers": count,
        "samples": samples,
        "side": size,
        "intra": intra,
        "inter": inter,
        "first": first,
        "seed": seed,
    }
    try:
        path = None if cache is None else _cached(Path(cache), options)
        if path is not None and path.is_file():
            with np.load(path) as stored:
                drawn = {name: stored[name] for name in stored.files}
        else:
            drawn = draw_writers(**options)._asdict()
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path, **drawn)
    except ValueError as error:
        raise UserError(f"Drawn handwriting: {error}") from error
    names = tuple(f"writer {first + i}" for i in range(count))
    return Words(
        drawn["image"],
        drawn["writer"] - first,
        names,
        parameters=drawn["sample_parameters"],
    )


def _cached(folder: Path, options: dict[str, Any]) -> Path:
    text = json.dumps(options, sort_keys=True)
    return folder / f"handwriting-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
