"""Writing what a run measures: JSON files, metric lines, TensorBoard, progress.

``metrics.jsonl`` is the record that resuming and the report rely on: one JSON object
per line, written to the operating system at once, so that a killed process loses at
most the line it was writing. What ``config.writers`` names gets a copy of it, for
looking at: TensorBoard event files, Weights & Biases. JSON has no NaN or infinity, so
values that are not finite are stored as ``null``.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import numpy as np
from tqdm import tqdm

from jaxkd.core import console, files, lookup, weights_and_biases
from jaxkd.core.errors import UserError
from jaxkd.core.event_files import EventFile

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


def write_json(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a JSON file so that readers see the old content or the new, never less.

    Args:
      path: the file; its folder must exist.
      tree: dictionaries, lists, strings and numbers; NumPy scalars and arrays are
        accepted, and numbers that are not finite become ``null``.
    """
    text = json.dumps(plain(tree), indent=2, ensure_ascii=False, allow_nan=False)
    files.write_text(path, text + "\n")


def plain(tree: Any) -> Any:
    """Returns a tree in types that JSON has, as it would be read back."""
    if isinstance(tree, Mapping):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    if isinstance(tree, np.ndarray | np.generic):
        return plain(tree.tolist())
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the metric lines of a run, which may still be writing them.

    Args:
      workdir: folder of the run.

    Returns:
      One dictionary a line with ``step``, ``time`` (seconds since 1970) and the
      metrics; None stands for a value that was not finite. Empty without a file. A
      last line that a killed process left incomplete is left out.

    Raises:
      UserError: if a line before the last is not a JSON object.
    """
    path = Path(workdir) / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    # Whatever follows the last line break was cut short.
    return [_parse(line, path, number) for number, line in enumerate(lines[:-1], 1)]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise UserError(
            f"{path}, line {number}: got {line[:60]!r}, expected a JSON object with an "
            'integer "step". Delete that line, or start the run in an empty folder.'
        )
    return record


def truncate(workdir: str | os.PathLike[str], step: int) -> None:
    """Drops the metrics that a resumed run will write again.

    Call this before `Writer` is opened, also when a run starts again from step 0:
    it removes the line that a killed process left incomplete as well. The next
    `Writer` makes TensorBoard's events anew from the lines that are left.

    Args:
      workdir: folder of the run.
      step: the step of the restored state; later lines are dropped.
    """
    path = Path(workdir) / METRICS
    if path.exists():
        kept = [record for record in read_metrics(workdir) if record["step"] <= step]
        files.write_text(path, "".join(map(_line, kept)))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"


class MetricWriter(Protocol):
    """Takes the records of ``metrics.jsonl``, one after another."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes a record: ``step``, ``time`` in seconds since 1970, and numbers."""

    def flush(self) -> None:
        """Hands everything written so far on."""

    def close(self) -> None:
        """Flushes and closes."""


class _Lines:
    """``metrics.jsonl``."""

    def __init__(self, workdir: Path):
        # Buffered by line, so that every line reaches the system when written.
        self._file = open(  # noqa: SIM115 (closed by close)
            workdir / METRICS, "a", encoding="utf-8", buffering=1
        )

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(_line(record))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Events:
    """TensorBoard: an event file that holds all that ``metrics.jsonl`` does.

    Whatever a killed process had not written, or wrote of steps that will be repeated,
    TensorBoard shows what the record says.
    """

    def __init__(self, workdir: Path, config: Mapping[str, Any]):
        del config
        records = read_metrics(workdir)
        began = records[0].get("time", 0.0) if records else time.time()
        self._events = EventFile(workdir / TENSORBOARD, began)
        for record in records:
            self.write(record)
        self._events.supersede()

    def write(self, record: Mapping[str, Any]) -> None:
        values = {
            name: value
            for name, value in record.items()
            if name not in ("step", "time")
            and value is not None
            and math.isfinite(value)  # TensorBoard draws no others
        }
        self._events.write(record["step"], record.get("time", 0.0), values)
        self._events.flush()

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()


# Name in ``config.writers`` -> ``(workdir, resolved configuration) -> writer``.
KINDS: Mapping[str, Callable[[Path, Mapping[str, Any]], MetricWriter]] = {
    "tensorboard": _Events,
    "wandb": weights_and_biases.WeightsAndBiases,
}


def check(names: Sequence[str]) -> None:
    """Checks that there are such writers, and that their libraries are installed.

    Raises:
      UserError: if not.
    """
    for name in names:
        lookup.choose(name, KINDS, what="config.writers: the writer")
    if "wandb" in names:
        weights_and_biases.library()


class Writer:
    """Appends metrics to ``metrics.jsonl``, and copies them to other writers.

    The methods are named as in ``clu.metric_writers``. Keys are
    ``"{split}_{metric}/{student}/{seed}"``, such as ``"test_top1/kd/1"``, and bare
    names such as ``"steps_per_s"`` for what concerns the whole run.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        enabled: bool,
        copies: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        """Opens the files.

        Args:
          workdir: folder of the run; created if missing.
          enabled: False on all processes but one, where every method does nothing.
          copies: names of ``KINDS``.
          config: the resolved configuration, for writers that show it.
        """
        self._writers: list[MetricWriter] = []
        if enabled:
            folder = Path(workdir)
            folder.mkdir(parents=True, exist_ok=True)
            # Those that copy what is there already come before the next line.
            others = [KINDS[name](folder, config or {}) for name in copies]
            self._writers = [_Lines(folder), *others]

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one record.

        Args:
          step: optimiser steps done when the values were measured.
          scalars: metric name -> value.
        """
        if not self._writers:
            return
        record: dict[str, Any] = {"step": int(step), "time": time.time()}
        record |= {name: float(value) for name, value in scalars.items()}
        for writer in self._writers:
            writer.write(record)

    def flush(self) -> None:
        """Hands everything written so far on."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Flushes and closes; a second call does nothing."""
        while self._writers:
            self._writers.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Progress:
    """Shows how far a run is: percentage, speed, remaining time, loss; unless quiet.

    On a terminal this is a live bar. Elsewhere (log files, pods) it is a plain line
    at the first update, at the last, and every ten seconds between. Speed and
    remaining time count from the first update on, so that the compilation before it
    does not distort them, and include evaluations and checkpoints.
    """

    def __init__(
        self,
        total: int,
        start: int,
        name: str,
        images_per_step: int,
        enabled: bool = True,
        file: TextIO | None = None,
        unit: str = "step",
    ):
        """Prepares the display.

        Args:
          total: steps of the whole run.
          start: steps done before, of a resumed run.
          name: what to call the run.
          images_per_step: images in a batch, over all processes.
          enabled: False on all processes but one, where nothing is shown.
          file: where to write, standard error if None.
          unit: what is counted.
        """
        self._total, self._name, self._images = total, name, images_per_step
        self._file = sys.stderr if file is None else file
        self._unit = unit
        self._enabled = enabled and console.shows()
        self._live = self._enabled and self._file.isatty()
        self._interval = 0.2 if self._live else 10.0
        self._first: tuple[int, float] | None = None
        self._shown = -math.inf
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=name,
            unit=unit,
            smoothing=0,  # the remaining time is from the mean speed
            dynamic_ncols=True,
            file=self._file,
            disable=not self._live,
        )

    def update(self, step: int, **postfix: Any) -> None:
        """Reports progress; cheap enough to be called at every step.

        Args:
          step: steps done.
          **postfix: text or numbers to show, such as ``loss=...``. They are read only
            when they are shown, so arrays still being computed are not waited for.
        """
        if not self._enabled:
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = (step, now)
            self._bar.unpause()
            self._bar.initial = step
        if now - self._shown >= self._interval or step >= self._total:
            self._shown = now
            self._show(step, now, postfix)

    def _show(self, step: int, now: float, postfix: Mapping[str, Any]) -> None:
        assert self._first is not None
        first, began = self._first
        speed = (step - first) / (now - began) if step > first else math.nan
        images = speed * self._images
        digits = 0 if images >= 10 else 2  # of slow work, such as 0.09 images/s
        parts = [] if math.isnan(speed) else [f"{images:.{digits}f} images/s"]
        parts += [f"{name}={_shown(value)}" for name, value in postfix.items()]
        if self._live:
            self._bar.n = step
            self._bar.set_postfix_str(", ".join(parts))
            return
        line = tqdm.format_meter(
            step,
            self._total,
            now - began,
            ncols=0,  # no bar of characters
            prefix=self._name,
            unit=self._unit,
            postfix=", ".join(parts),
            initial=first,
        )
        self._file.write(line + "\n")
        self._file.flush()

    def print(self, text: str) -> None:
        """Writes a line that stays, above a live bar."""
        if self._live:
            self._bar.write(text, file=self._file)
        elif self._enabled:
            self._file.write(text + "\n")
            self._file.flush()

    def close(self) -> None:
        """Leaves the terminal at the start of a fresh line."""
        self._bar.close()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):.4g}"
