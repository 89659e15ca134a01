"""Recognises a data set by its content, wherever it lies.

``data.json`` in a workdir holds hashes of the examples that a run was trained and
tested on. With them a run whose data were moved to another path is still the same run.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.core import integrity
from jaxkd.core.source import ArraySource, Source
from jaxkd.core.writers import write_json
from jaxkd.training.build import Run
from jaxkd.training.workdir import read_json

DATA = "data.json"
# Of larger or file-backed data so many examples are compared, evenly spaced.
_SAMPLE = 16
_WHOLE_BYTES = 2**28


def record(run: Run, workdir: Path) -> None:
    """Writes the hashes of a run's data into its folder, once (process 0)."""
    path = workdir / DATA
    if jax.process_index() == 0 and not path.exists():
        write_json(path, fingerprint(run))


def is_recorded(run: Run, workdir: Path) -> bool:
    """Tells whether a run's data are those that its folder has recorded."""
    path = workdir / DATA
    return path.exists() and read_json(path) == fingerprint(run)


def fingerprint(run: Run) -> dict[str, Any]:
    """Returns the sizes of a run's data and hashes of their content."""
    return {
        "class_names": list(run.dataset.info.class_names),
        "train": [_describe(draw) for draw in run.draws],
        "test": _describe(run.dataset.test),
    }


def _describe(source: Source) -> dict[str, Any]:
    size = len(source)
    if isinstance(source, ArraySource) and _bytes(source) <= _WHOLE_BYTES:
        whole = integrity.content_hash(source.arrays)
        return {"examples": size, "compared": size, "hash": whole}
    rows = np.unique(np.linspace(0, size - 1, _SAMPLE).astype(int)).tolist()
    sample = integrity.content_hash({str(row): source[row] for row in rows})
    return {"examples": size, "compared": len(rows), "hash": sample}


def _bytes(source: ArraySource) -> int:
    return sum(array.nbytes for array in source.arrays.values())
