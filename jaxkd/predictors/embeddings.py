"""Embeds people's own images: nearest neighbours, and verification of pairs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.core.files import replacing
from jaxkd.core.options import Range
from jaxkd.metrics import retrieval, verification
from jaxkd.predictors.inputs import (
    OK,
    UNREADABLE,
    attempt,
    summary,
    write_status,
    write_table,
)
from jaxkd.predictors.restore import Restored, in_batches, restore
from jaxkd.readers import images
from jaxkd.readers.listing import shown
from jaxkd.report.statistics import plural

_BATCH = 64
_CELL = 72  # pixels of an image on the sheet
_SHOWN = 30  # rows of the sheet


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    neighbours: int = 5,
    pairs: Path | None = None,
    threshold: Annotated[float | None, Range(low=None)] = None,
) -> str:
    """Embeds image files and writes what is found into a folder.

    ``files.csv`` has a row for each image with its status; one that cannot be read is
    left out of the rest: ``embeddings.npz`` (``files``, ``embeddings`` float32
    ``[n, width]``), ``neighbours.csv`` and, for the first 30 images,
    ``neighbours.png``; with ``pairs`` also ``pairs.csv``. Images become RGB, their
    middle square is resized to the size of the data set that the run was trained on;
    those that are no larger than what the network itself reads are brought to that size
    directly.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: image files and folders; folders are searched through.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      neighbours: to find for each image; 0 finds none.
      pairs: a CSV file of two columns, paths of images among the inputs, either as they
        were given or relative to the CSV file's folder.
      threshold: cosine from which a pair is one identity; None takes the run's own,
        from the folds of its test pairs.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if an input is missing, the run is unknown or has no embedding, a pair
        names another image, or, once ``files.csv`` is written, none could be read.
    """
    files = list(images.find(inputs, output))
    asked = None if pairs is None else _read_pairs(pairs, files)
    most = len(files) - 1
    if not 0 <= neighbours <= most:
        raise UserError(
            f"{neighbours} neighbours were asked for of {len(files)} images, expected "
            f"0 to {most}. Add images or ask for fewer."
        )
    restored = restore(workdir, student, seed, use)
    if asked is not None and threshold is None:
        threshold = _threshold(restored.results, workdir, restored.name, seed)
    _make_folder(output)
    errors: dict[Path, str] = {}
    embeddings = _embed(restored, files, errors)
    write_status(output / "files.csv", files, errors)
    places = [place for place, file in enumerate(files) if file not in errors]
    good, rows = [files[place] for place in places], embeddings[places]
    names = np.array([shown(file) for file in good])
    with replacing(output / "embeddings.npz") as path:
        np.savez(path, files=names, embeddings=rows)
    said = [f"{plural(len(good), 'image')}, embeddings of {rows.shape[1]} numbers"]
    if count := min(neighbours, len(good) - 1):
        _write_neighbours(output, good, rows, count)
        said.append(f"{count} neighbours each")
    if asked is not None and threshold is not None:
        accepted = _write_pairs(output, files, embeddings, asked, threshold, errors)
        said.append(f"{accepted} of {len(asked[0])} pairs accepted")
    return f"{'; '.join(said)} -> {output}{summary(errors)}"


def _embed(
    restored: Restored, files: list[Path], errors: dict[Path, str]
) -> np.ndarray:
    """Returns a row for each file, of zeros for those that cannot be read."""
    embed, native = _network(restored)
    decode = functools.partial(images.decode, channels=restored.info.image_shape[-1])
    parts = np.zeros((len(files), 0), np.float32)
    groups: dict[int, list[int]] = {}
    pixels = {}
    for place, file in enumerate(tqdm(files, unit="image", disable=None)):
        picture = attempt(decode, file, errors)
        if picture is None:
            continue
        small = max(picture.shape[:2]) <= native
        side = native if small else restored.info.image_shape[0]
        pixels[place] = _square(picture, side)
        groups.setdefault(side, []).append(place)
    for places in groups.values():
        for start in range(0, len(places), _BATCH):
            some = places[start : start + _BATCH]
            rows = embed(np.stack([pixels[place] for place in some]))
            if not parts.shape[1]:
                parts = np.zeros((len(files), rows.shape[1]), np.float32)
            parts[some] = rows
    return parts


def _network(restored: Restored) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Returns ``uint8 [n, h, w, c] -> [n, width]`` and the side the network reads."""
    height, width, channels = restored.info.image_shape
    if height != width or channels not in (1, 3):
        raise UserError(
            f"The run was trained on images {restored.info.image_shape}, expected "
            "square ones of 1 or 3 channels."
        )
    shape = jax.ShapeDtypeStruct((_BATCH, *restored.info.image_shape), jnp.uint8)
    seen = jax.eval_shape(restored.see, {"image": shape})
    features = jax.eval_shape(restored.apply, {"image": shape})[1]
    if "embedding" not in features:
        raise UserError(
            f"Student {restored.name!r} has no embedding, only {', '.join(features)}. "
            "Train one by the method metric_learning or ipn."
        )
    forward = jax.jit(lambda batch: restored.apply({"image": batch})[1]["embedding"])
    return in_batches(forward, _BATCH), seen.shape[1]


def _square(image: np.ndarray, side: int) -> np.ndarray:
    """Cuts out the middle square and resizes it."""
    least = min(image.shape[:2])
    top, left = ((length - least) // 2 for length in image.shape[:2])
    middle = image[top : top + least, left : left + least]
    return images.resize(middle, (side, side))


def _read_pairs(path: Path, files: list[Path]) -> tuple[list[int], list[int]]:
    """Returns the places of both columns among the files."""
    path = Path(path).expanduser()
    rows = parsing.read_rows(path, "CSV", "Expected two paths in each line.")
    places = {file.absolute().resolve(): i for i, file in enumerate(files)}
    found: tuple[list[int], list[int]] = ([], [])
    for line, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise UserError(f"{path}, line {line}, is {row}, expected two paths.")
        for column, name in zip(found, row, strict=True):
            options = [Path(name.strip()), parsing.beside(path, name.strip())]
            known = [o.absolute().resolve() for o in options]
            place = next((places[o] for o in known if o in places), None)
            if place is None:
                raise UserError(
                    f"{path}, line {line}: {name.strip()} is not among the "
                    f"{len(files)} inputs. Add it to --inputs, or correct the path."
                )
            column.append(place)
    if not rows:
        raise UserError(f"{path} is empty, expected a pair of paths on each line.")
    return found


def _threshold(results: Mapping[str, Any], workdir: Path, student: str, seed) -> float:
    if student not in results["students"]:
        raise UserError(
            f"{workdir} has no student {student!r}, expected one of "
            f"{', '.join(results['students'])}."
        )
    known = results["students"][student]["last"].get("threshold")
    seeds = results["seeds"]
    if not known:
        raise UserError(
            f"{workdir} was tested without pairs, so it knows no threshold. Give one, "
            "a cosine from -1 to 1."
        )
    place = seeds.index(seed) if seed in seeds else 0
    return float(known[place])


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output: {output} is no folder and cannot be made one: {error.strerror}."
        ) from error


def _write_neighbours(output: Path, files, embeddings, count: int) -> None:
    rows = _directions(embeddings, files)
    _, found = retrieval.nearest(rows, count)
    cosines = np.einsum("if,ikf->ik", rows, rows[found])
    listed = [
        (files[place], rank, files[other], f"{cosine:.4f}")
        for place, (near, how) in enumerate(zip(found, cosines, strict=True))
        for rank, (other, cosine) in enumerate(zip(near, how, strict=True), 1)
    ]
    header = ("file", "rank", "neighbour", "cosine")
    write_table(output / "neighbours.csv", header, listed)
    _sheet(files, found).save(output / "neighbours.png")


def _sheet(files, found: np.ndarray) -> Any:
    """Draws each image in a row with its neighbours, apart from them by a gap."""
    from PIL import Image

    count = min(len(files), _SHOWN)
    step, gap = _CELL + 4, 12
    shape = (count * step + 4, (found.shape[1] + 1) * step + gap + 4, 3)
    page = np.full(shape, 255, np.uint8)
    for row in range(count):
        for column, place in enumerate([row, *found[row]]):
            left = 4 + column * step + gap * (column > 0)
            cell = _square(images.decode(files[place]), _CELL)
            page[4 + row * step :, left:][:_CELL, :_CELL] = cell
    return Image.fromarray(page)


def _write_pairs(
    output: Path, files, embeddings, asked, threshold: float, errors
) -> int:
    first, second = (np.array(side) for side in asked)
    bad = np.array([file in errors for file in files])
    rows = _directions(np.where(bad[:, None], 1.0, embeddings), files)
    cosines = np.sum(rows[first] * rows[second], axis=1)
    unknown = bad[first] | bad[second]
    listed = []
    for i, j, cosine, lost in zip(first, second, cosines, unknown, strict=True):
        found = ("", f"{threshold:.4f}", "", UNREADABLE)
        if not lost:
            same = int(cosine >= threshold)
            found = (f"{cosine:.4f}", f"{threshold:.4f}", str(same), OK)
        listed.append((files[i], files[j], *found))
    header = ("first", "second", "cosine", "threshold", "same", "status")
    write_table(output / "pairs.csv", header, listed)
    return int(np.sum((cosines >= threshold) & ~unknown))


def _directions(embeddings: np.ndarray, files) -> np.ndarray:
    try:
        return verification.unit_rows(embeddings)
    except ValueError as error:
        raise UserError(f"{error} The first file is {files[0]}.") from error
