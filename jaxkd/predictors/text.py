"""Reads people's own images of text lines with a trained student."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.metrics import text
from jaxkd.predictors.inputs import (
    OK,
    UNREADABLE,
    attempt,
    require_one,
    summary,
    write_table,
)
from jaxkd.predictors.restore import Restored, restore
from jaxkd.readers import images

_BATCH = 32


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    labels: Path | None = None,
) -> str:
    """Reads images of one line each, and writes ``text.csv``.

    Its columns are ``file``, ``text`` and ``confidence``, the product of the
    probabilities of the characters and the end; with ``labels`` also the truth and the
    edit distance; and each image's status. Images are resized to what the network
    reads, whatever their size.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: image files and folders; folders are searched through.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      labels: a CSV file of two columns, name of an image file and its text.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if an input is missing or no image, the run is unknown or no reader, or
        a label is of no image among the inputs, of several, or not the only one.
    """
    files = list(images.find(inputs, output))
    truths = {} if labels is None else _read_labels(labels, files)
    restored = restore(workdir, student, seed, use)
    if not hasattr(restored.network, "slots"):
        raise UserError(
            f"{workdir} holds no reader of text, expected a run of kd_ltr or "
            "text_recognition. Choose another predictor with --predictor."
        )
    rows, distances = [], []
    errors: dict[Path, str] = {}
    results = _read(restored, files, errors)
    for file, (found, confidence) in zip(files, results, strict=True):
        bad = file in errors
        row = {
            "file": file,
            "text": found,
            "confidence": "" if bad else f"{confidence:.4f}",
            "status": UNREADABLE if bad else OK,
            "error": errors.get(file, ""),
        }
        if file.name in truths and not bad:
            truth = truths[file.name]
            apart = text.edit_distance(found.lower(), truth.lower())
            row |= {"truth": truth, "edit_distance": str(apart)}
            distances.append(apart)
        rows.append(row)
    output.mkdir(parents=True, exist_ok=True)
    columns = ["file", "text", "confidence"]
    columns += ["truth", "edit_distance"] if truths else []
    columns += ["status", "error"]
    table = [[row.get(column, "") for column in columns] for row in rows]
    write_table(output / "text.csv", columns, table)
    require_one(files, errors, output / "text.csv")
    count = len(files) - len(errors)
    report = f"{count} lines read by {restored.name}, in {output / 'text.csv'}"
    if distances:
        right = sum(apart == 0 for apart in distances)
        report += (
            f"; {right} of {len(distances)} labelled lines without a mistake, edit "
            f"distance {np.mean(distances):.2f} on average"
        )
    return f"{report}{summary(errors)}"


def _read(restored: Restored, files: Sequence[Path], errors: dict[Path, str]):
    """Yields the text and the confidence of each file; no text of those in errors."""
    alphabet = "".join(restored.info.class_names[1:])
    height, width = restored.info.image_shape[:2]
    low = restored.config.model.get("input", "image") == "low"
    factor = restored.config.view.get("factor", 2) if low else 1
    side = (height // factor, width // factor)

    @jax.jit
    def read(batch):
        # What somebody has is what the network reads: it is not made smaller again.
        images = batch.astype(jnp.float32) / 255
        mean, std = (jnp.asarray(x) for x in (restored.info.mean, restored.info.std))
        logits, _ = restored.network.apply(
            restored.variables, (images - mean) / std, train=False
        )
        p = jax.nn.softmax(logits)
        return jnp.argmax(p, axis=-1), jnp.max(p, axis=-1)

    for start in tqdm(range(0, len(files), _BATCH), unit="batch", disable=None):
        part = files[start : start + _BATCH]
        batch = np.zeros((_BATCH, *side, 3), np.uint8)
        for row, file in enumerate(part):
            image = attempt(images.decode, file, errors)
            if image is not None:
                batch[row] = images.resize(image, side)
        tokens, best = (np.asarray(x) for x in read(batch))
        for file, found, row, p in zip(
            part, text.decode(tokens, alphabet), tokens, best, strict=False
        ):
            if file in errors:
                yield "", 0.0
                continue
            length = min(len(found) + 1, len(row))
            yield found, float(np.prod(p[:length]))


def _read_labels(path: Path, files: Sequence[Path]) -> dict[str, str]:
    path = Path(path)
    rows = parsing.read_rows(path, "CSV", "labels: expected file,text in each line.")
    names = Counter(each.name for each in files)
    truths: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[0] not in names:
            raise UserError(
                f"{path}, line {number}: {','.join(row)!r}, expected file,text with "
                "the name of one of the inputs."
            )
        name, text = row
        if names[name] > 1 or truths.setdefault(name, text) != text:
            raise UserError(
                f"{path}, line {number}: {names[name]} inputs are called {name!r}, and "
                f"it has the text {truths.get(name, text)!r} or {text!r}, expected one "
                "input and one text. Predict folders one by one, or mend the table."
            )
    return truths
