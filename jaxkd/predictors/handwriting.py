"""Verifies people's own words: pairs of files, or a folder against another."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.core.files import write_text
from jaxkd.metrics import verification
from jaxkd.predictors.inputs import attempt, summary, write_status, write_table
from jaxkd.predictors.restore import Restored, restore
from jaxkd.readers import images
from jaxkd.readers.handwriting import COLUMNS, picture
from jaxkd.readers.listing import shown

_BATCH = 64
_SHOWN = 200  # pairs on the page
_SIDE = 96  # pixels of a word on the page


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    pairs: str | None = None,
    neighbours: int = 3,
) -> str:
    """Decides whether words are of one hand, and writes a table and a page.

    Two inputs are compared with each other, each word of the first with each of the
    second; of one folder, all words with each other; ``pairs`` chooses instead.
    ``pairs.csv`` has ``first, second, probability, same, cosine``, the likeliest pairs
    first: the head's probability, and the cosine of the encoder's features, centred
    over the words; and ``label``, where the table of pairs has it. ``neighbours.csv``
    has the words nearest to each by that cosine; ``pairs.html`` both words of the first
    200 pairs; ``files.csv`` the status of each word.

    Args:
      workdir: folder of a finished run of ``handwriting_pairs``.
      inputs: image files and folders, dark words on white.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      pairs: a CSV file of two columns, paths of words among the inputs, relative to the
        working directory, the file or an input; or one with the header
        ``sample1,sample2,label``, as ``readers.handwriting.write_pairs`` writes it.
      neighbours: to name for each word.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if the run is of another method, an input is no image, there are fewer
        than two words, or a pair names another file.
    """
    groups = [list(images.find([path], output)) for path in inputs]
    every = list(dict.fromkeys(path for group in groups for path in group))
    if len(every) < 2:
        raise UserError(f"{len(every)} word was given, expected at least two.")
    if pairs is not None:
        _read_pairs(Path(pairs), every, inputs)  # before the network is restored
    restored = restore(workdir, student, seed, use)
    side = restored.info.image_shape[0]
    errors: dict[Path, str] = {}
    read = [attempt(lambda path: picture(path, side), path, errors) for path in every]
    output.mkdir(parents=True, exist_ok=True)
    write_status(output / "files.csv", every, errors)
    words = np.stack([word for word in read if word is not None])
    files = [path for path in every if path not in errors]
    chosen, labels = _chosen(groups, files, pairs, errors, inputs)
    if len(files) < 2 or not len(chosen):
        raise UserError(
            f"{len(errors)} of {len(every)} words cannot be read, such as: "
            f"{next(iter(errors.values()))} No pair is left."
        )
    probability, features = _compare(restored, words, chosen)
    order = np.argsort(-probability, kind="stable")
    names = [shown(path) for path in files]
    cosine = _cosines(features)
    same = probability > 0.5
    near = _neighbours(cosine, min(neighbours, len(files) - 1))
    table = [
        (
            *(names[place] for place in chosen[i]),
            f"{probability[i]:.4f}",
            int(same[i]),
            f"{cosine[tuple(chosen[i])]:.4f}",
            *([] if labels is None else [int(labels[i])]),
        )
        for i in order
    ]
    _write_tables(output, names, table, near)
    page = _page(restored.name, words, names, chosen[order], probability[order], near)
    write_text(output / "pairs.html", page)
    right = "" if labels is None else f", {np.sum(same == labels)} as labelled"
    return (
        f"{len(files)} words, {len(chosen)} pairs, {np.sum(same)} of one hand{right} "
        f"-> {output}{summary(errors)}"
    )


def _write_tables(
    output: Path,
    names: Sequence[str],
    pairs: Sequence[tuple],
    near: Sequence[Sequence[tuple[int, float]]],
) -> None:
    columns = ("first", "second", "probability", "same", "cosine", "label")
    write_table(output / "pairs.csv", columns[: len(pairs[0])], pairs)
    write_table(
        output / "neighbours.csv",
        ("file", "rank", "neighbour", "cosine"),
        [
            (names[i], rank, names[j], f"{value:.4f}")
            for i, row in enumerate(near)
            for rank, (j, value) in enumerate(row, start=1)
        ],
    )


def _chosen(
    groups, files: list[Path], pairs: str | None, errors, inputs: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the pairs to compare, places ``[pairs, 2]`` of files, and labels."""
    places = {path: place for place, path in enumerate(files)}
    if pairs is not None:
        every = [*files, *errors]  # pairs of unreadable words are left out
        found, labels = _read_pairs(Path(pairs), every, inputs)
        kept = (found < len(files)).all(axis=1)
        return found[kept], None if labels is None else labels[kept]
    if len(groups) == 2:
        between = {
            tuple(sorted((places[a], places[b])))
            for a in groups[0]
            for b in groups[1]
            if a != b and a in places and b in places
        }
        return np.array(sorted(between)), None
    return np.stack(np.triu_indices(len(files), k=1), axis=1), None


def _read_pairs(
    path: Path, files: list[Path], inputs: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads places of pairs among the files, and their labels if there is a column."""
    rows = parsing.read_rows(path, "CSV", "Expected two paths in each line.")
    header = tuple(rows[0]) if rows else ()
    titled, labelled = header in (COLUMNS, COLUMNS[:2]), header == COLUMNS
    places = {file.absolute().resolve(): place for place, file in enumerate(files)}
    found, labels = [], []
    for line, row in enumerate(rows[titled:], start=1 + titled):
        known = []
        for name in row[:2]:
            folders = (Path(), path.parent, *inputs)
            options = [
                (folder / name.strip()).absolute().resolve() for folder in folders
            ]
            known += [places[option] for option in options if option in places][:1]
        label = row[2:]
        right = label in (["0"], ["1"]) if labelled else not label
        if len(known) != 2 or not right:
            also = " and a label, 0 or 1" if labelled else ""
            raise UserError(
                f"{path}, line {line}, is {row}, expected two paths among the "
                f"{len(files)} inputs{also}. A table with labels begins with the line "
                f"{','.join(COLUMNS)}."
            )
        found.append(known)
        labels += label
    if not found:
        raise UserError(f"{path} is empty, expected a pair of paths on each line.")
    return np.array(found), np.array(labels) == "1" if labelled else None


def _compare(
    restored: Restored, words: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs' probabilities of one hand, and the words' features."""

    @jax.jit
    def compare(first, second):
        logits, features = restored.apply({"image": first, "other": second})
        if "pooled" not in features or features["pooled"].ndim != 3:
            raise UserError(
                f"Student {restored.name!r} compares no pairs. Take a run of the "
                "method handwriting_pairs."
            )
        return jax.nn.softmax(logits)[:, 1], features["pooled"][:, 0]

    def in_batches(pairs: np.ndarray):
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            padded = np.resize(part, (_BATCH, 2))
            found = compare(jnp.asarray(words[padded[:, 0]]), words[padded[:, 1]])
            yield [np.asarray(x)[: len(part)] for x in found]

    probability = np.concatenate([p for p, _ in in_batches(chosen)])
    itself = np.repeat(np.arange(len(words))[:, None], 2, axis=1)
    features = np.concatenate([f for _, f in in_batches(itself)])
    return probability, features


def _cosines(features: np.ndarray) -> np.ndarray:
    """Returns the cosines of centred features, ``[words, words]``."""
    rows = verification.unit_rows(features - features.mean(axis=0) + 1e-12)
    return rows @ rows.T


def _neighbours(cosine: np.ndarray, count: int) -> list[list[tuple[int, float]]]:
    """Lists the places and cosines nearest to each row, itself left out."""
    cosine = cosine.copy()
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return [[(int(j), float(cosine[i, j])) for j in row] for i, row in enumerate(order)]


def _page(student, words, names, chosen, probability, near) -> str:
    """Makes a page that stands alone: both words, probability, nearest neighbours."""
    rows = []
    for (a, b), p in list(zip(chosen, probability, strict=True))[:_SHOWN]:
        others = "".join(_image(words[j], names[j], 48) for j, _ in near[a])
        verdict = "one hand" if p > 0.5 else "two hands"
        rows.append(
            f"<tr><td>{_image(words[a], names[a])}</td>"
            f"<td>{_image(words[b], names[b])}</td>"
            f"<td>{100 * p:.1f} %<br>{verdict}</td><td>{others}</td></tr>"
        )
    left_out = len(chosen) - len(rows)
    note = f"<p>{left_out} less likely pairs are in pairs.csv.</p>" if left_out else ""
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<title>Writers of words</title><style>body{font-family:sans-serif;margin:2em}"
        "td,th{padding:.3em 1em;text-align:left}img{border:1px solid #ccc;margin:2px}"
        ".wide{overflow-x:auto}"
        f"</style><h1>Writers of words</h1><p>Student {html.escape(student)}.</p>"
        "<div class='wide'><table><tr><th>first</th><th>second</th>"
        "<th>probability of one hand</th><th>nearest to the first</th></tr>"
        f"{''.join(rows)}</table></div>{note}</html>"
    )


def _image(word: np.ndarray, name: str, side: int = _SIDE) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(word[..., 0]).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    label = html.escape(name, quote=True)
    return (
        f"<img src='data:image/png;base64,{data}' width='{side}' title='{label}' "
        f"alt='{label}'>"
    )
