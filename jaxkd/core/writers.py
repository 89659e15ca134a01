"""Writing what a run measures: JSON files, metric lines, TensorBoard, progress.

``metrics.jsonl`` is the record that resuming and the report rely on: one JSON object
per line, written to the operating system at once, so that a killed process loses at
most the line it was writing. TensorBoard event files are a copy for looking at.
JSON has no NaN or infinity, so values that are not finite are stored as ``null``.
"""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
from tqdm import tqdm

from jaxkd.core import files
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


class Writer:
    """Appends metrics to ``metrics.jsonl`` and to TensorBoard event files.

    The methods are named as in ``clu.metric_writers``. Keys are
    ``"{split}_{metric}/{student}/{seed}"``, such as ``"test_top1/kd/1"``, and bare
    names such as ``"steps_per_s"`` for what concerns the whole run.
    """

    def __init__(self, workdir: str | os.PathLike[str], enabled: bool):
        """Opens the files.

        Args:
          workdir: folder of the run; created if missing.
          enabled: False on all processes but one, where every method does nothing.
        """
        self._file: TextIO | None = None
        self._events: Any = None
        if enabled:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            self._events = _open_events(Path(workdir))
            # Buffered by line, so that every line reaches the system when written.
            self._file = open(  # noqa: SIM115 (closed by close)
                Path(workdir) / METRICS, "a", encoding="utf-8", buffering=1
            )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line and one event per metric.

        Args:
          step: optimiser steps done when the values were measured.
          scalars: metric name -> value.
        """
        if self._file is None:
            return
        record = {"step": int(step), "time": time.time()}
        record |= {name: float(value) for name, value in scalars.items()}
        self._file.write(_line(record))
        _write_event(self._events, record)
        self._events.flush()

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        if self._file is not None:
            self._file.flush()
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._events.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open_events(workdir: Path) -> EventFile:
    """Opens an event file that holds all that ``metrics.jsonl`` does.

    Whatever a killed process had not written, or wrote of steps that will be repeated,
    TensorBoard shows what the record says.
    """
    records = read_metrics(workdir)
    began = records[0].get("time", 0.0) if records else time.time()
    events = EventFile(workdir / TENSORBOARD, began)
    for record in records:
        _write_event(events, record)
    events.supersede()
    return events


def _write_event(events: EventFile, record: Mapping[str, Any]) -> None:
    values = {
        name: value
        for name, value in record.items()
        # TensorBoard draws no others.
        if name not in ("step", "time") and value is not None and math.isfinite(value)
    }
    events.write(record["step"], record.get("time", 0.0), values)


class Progress:
    """Shows how far a run is: percentage, speed, remaining time, loss.

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
    ):
        """Prepares the display.

        Args:
          total: steps of the whole run.
          start: steps done before, of a resumed run.
          name: what to call the run.
          images_per_step: images in a batch, over all processes.
          enabled: False on all processes but one, where nothing is shown.
          file: where to write, standard error if None.
        """
        self._total, self._name, self._images = total, name, images_per_step
        self._file = sys.stderr if file is None else file
        self._enabled = enabled
        self._live = enabled and self._file.isatty()
        self._interval = 0.2 if self._live else 10.0
        self._first: tuple[int, float] | None = None
        self._shown = -math.inf
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=name,
            unit="step",
            smoothing=0,  # the remaining time is from the mean speed
            dynamic_ncols=True,
            file=self._file,
            disable=not self._live,
        )

    def update(self, step: int, **postfix: Any) -> None:
        """Reports progress; cheap enough to be called at every step.

        Args:
          step: steps done.
          **postfix: values to show, such as ``loss=...``. They are read only when
            they are shown, so arrays still being computed are not waited for.
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
        parts = [] if math.isnan(speed) else [f"{speed * self._images:.0f} images/s"]
        parts += [f"{name}={float(value):.4g}" for name, value in postfix.items()]
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
            unit="step",
            postfix=", ".join(parts),
            initial=first,
        )
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Leaves the terminal at the start of a fresh line."""
        self._bar.close()
