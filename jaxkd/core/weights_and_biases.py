"""Copies metrics to Weights & Biases, with the library's own settings.

``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE=offline`` and ``wandb login`` work as
in any other program; the project is "jaxkd" where none is named.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkd.core import files, optional

# Remembers which run there a folder belongs to, so that resuming continues it.
ID = "wandb_id"


def library() -> Any:
    """Imports the library.

    Raises:
      UserError: if it is not installed.
    """
    return optional.load("wandb", extra="wandb", purpose="config.writers = ('wandb',)")


class WeightsAndBiases:
    """A run on Weights & Biases, as a ``writers.MetricWriter``."""

    def __init__(self, workdir: Path, config: Mapping[str, Any]):
        """Starts a run there, or continues that of the folder.

        Args:
          workdir: of the run; the library keeps its own files in ``wandb/`` there.
          config: resolved, shown beside the curves.

        Raises:
          UserError: if the library is not installed.
        """
        wandb = library()
        known = workdir / ID
        identity = known.read_text().strip() if known.exists() else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxkd"),
            dir=str(workdir),
            id=identity,
            resume="allow",
            name=config.get("name") or None,
            config=dict(config),
        )
        files.write_text(known, f"{self._run.id}\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Logs a record of ``metrics.jsonl`` at its step."""
        values = {
            name: value
            for name, value in record.items()
            if name not in ("step", "time") and value is not None
        }
        finite = {name: v for name, v in values.items() if math.isfinite(v)}
        self._run.log(finite, step=record["step"])

    def flush(self) -> None:
        """Does nothing: the library sends what it was given by itself."""

    def close(self) -> None:
        """Ends the run there, once all is sent."""
        self._run.finish()
