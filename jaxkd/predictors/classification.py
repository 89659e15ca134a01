"""Classifies image files with a trained student."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxkd.core.errors import UserError
from jaxkd.core.files import write_text
from jaxkd.core.source import Info
from jaxkd.predictors.inputs import OK, UNREADABLE, attempt, require_one, table
from jaxkd.predictors.restore import in_batches, restore
from jaxkd.readers import images
from jaxkd.readers.listing import shown
from jaxkd.report.statistics import plural
from jaxkd.training import preprocessing

_BATCH = 64


class Prediction(NamedTuple):
    """The most probable classes of one image file, best first.

    Attributes:
      file: that was read.
      classes: their names; none where it could not be read.
      probabilities: of them.
      status: ``"ok"`` or ``"unreadable"``.
      error: why it could not be read, or nothing.
    """

    file: str
    classes: list[str]
    probabilities: list[float]
    status: str = OK
    error: str = ""


def predict_files(
    workdir: Path,
    inputs: Sequence[str],
    output: str | None = None,
    *,
    topk: int | None = None,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
) -> list[Prediction]:
    """Classifies image files and writes the result as CSV or JSON.

    Every image has a row with its status; one that cannot be read ends nothing. Images
    are decoded to the channels that the network was trained on and, unless they have
    its size, resized and cropped as for evaluation.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: image files and folders; folders are searched through.
      output: a ``.csv`` or ``.json`` file; None prints CSV.
      topk: classes to name per image; None for five, or as many as there are.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.

    Raises:
      UserError: if an input is missing, the run or student is unknown, or, once the
        table is written, no image could be read.
    """
    write = _writer(output)
    restored = restore(workdir, student, seed, use)
    info = restored.info
    if preprocessing.channels_of_files(info) is None:
        raise UserError(
            f"{workdir} was trained on arrays {info.image_shape}, expected 1 or 3 "
            "channels, as image files have, or to be trained on files (data 'folder' "
            "with channels=...)."
        )
    topk = min(5, info.num_classes) if topk is None else topk
    if not 1 <= topk <= info.num_classes:
        raise UserError(f"--topk is {topk}, expected 1 to {info.num_classes}.")
    files = list(images.find(inputs, output))
    forward = jax.jit(lambda batch: jax.nn.softmax(restored.apply({"image": batch})[0]))
    classify = in_batches(forward, _BATCH)
    predictions = []
    errors: dict[Path, str] = {}
    for start in tqdm(range(0, len(files), _BATCH), unit="batch", disable=None):
        batch = files[start : start + _BATCH]
        read = [attempt(lambda file: _read(file, info), f, errors) for f in batch]
        good = [image for image in read if image is not None]
        rows = iter(classify(np.stack(good)) if good else ())
        for file in batch:
            if file in errors:
                bad = Prediction(shown(file), [], [], UNREADABLE, errors[file])
                predictions.append(bad)
                continue
            row = next(rows)
            best = np.argsort(-row, kind="stable")[:topk]
            names = [info.class_names[index] for index in best]
            predictions.append(Prediction(shown(file), names, row[best].tolist()))
    write(predictions)
    require_one(files, errors, None if output is None else Path(output))
    return predictions


def _read(path: Path, info: Info) -> np.ndarray:
    picture = images.decode(path, info.image_shape[-1])
    return images.fit(picture, info.image_shape, info.resize)


def _writer(output: str | None) -> Callable[[list[Prediction]], None]:
    """Chooses how to write, before any work is done."""
    if output is None:
        return lambda predictions: print(_as_csv(predictions), end="")
    formats = {".csv": _as_csv, ".json": _as_json}
    path = Path(output)
    if path.suffix not in formats:
        raise UserError(f"--output is {output!r}, expected a .csv or .json file.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output: the folder {path.parent} does not exist.")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder, expected a file to write.")

    def write(predictions: list[Prediction]) -> None:
        write_text(path, formats[path.suffix](predictions))
        print(f"{plural(len(predictions), 'image')} -> {path}", file=sys.stderr)

    return write


def _as_csv(predictions: list[Prediction]) -> str:
    rows: list[tuple] = []
    for file, classes, probabilities, status, error in predictions:
        if error:
            rows.append((file, "", "", "", status, error))
        for rank, (name, p) in enumerate(zip(classes, probabilities, strict=True), 1):
            rows.append((file, rank, name, f"{p:.6f}", status, ""))
    header = ("file", "rank", "class", "probability", "status", "error")
    return table(header, rows)


def _as_json(predictions: list[Prediction]) -> str:
    rows = [prediction._asdict() for prediction in predictions]
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
