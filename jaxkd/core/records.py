"""The JSON files of a run, checked when they are read.

``results.json`` carries a seal, a hash of its content, so that a changed digit in it is
no result. Both files are checked against their schema, also those of version 0.1, which
have no seal.
"""

from pathlib import Path
from typing import Any

from jaxkd.core import integrity, parsing, schema
from jaxkd.core.schema import NULL, NUMBER
from jaxkd.core.writers import plain, write_json

CONFIG, RESULTS = "config.json", "results.json"
_REMEDY = "It may have been edited or cut off: restore it, or choose another --workdir."

_BY_SEED = [(*NUMBER, NULL)]
_STUDENT = {
    "method": str,
    "model": str,
    "last": {...: _BY_SEED},
    "best?": {...: _BY_SEED},
    "train?": {...: _BY_SEED},
    "skipped?": [int],
    "steps?": int,
    "parameters?": int,
}
_TRAINING = {
    "name": str,
    "data": {
        "name": str,
        "num_classes": int,
        "image_shape?": [int],
        "mean?": [NUMBER],
        "std?": [NUMBER],
        "train_examples": int,
        "test_examples": int,
        "class_names": [str],
    },
    "score?": {"name": str, "label": str, "percent": bool, "lower": bool},
    "seeds": [int],
    "reference?": (str, NULL),
    "unit?": str,
    "steps": int,
    "batch_size": int,
    "seconds?": NUMBER,
    "environment?": {},
    "frozen": {...: {"model": str, "hash?": str, "path?": str}},
    "students": {...: _STUDENT},
    "figures?": [{"name": str, "title": str, "caption": str}],
    "tables?": [{"title": str, "rows": [[(str, *NUMBER, NULL)]]}],
}
_PIPELINE = {
    "pipeline": str,
    "name?": str,
    "finished?": bool,
    "version?": str,
    "provenance?": {},
    "environment?": {},
    "seeds?": [int],
    "frozen?": {...: {"path": str, "hash": str}},
    "seconds?": NUMBER,
    "cells?": [{}],
    "tables?": [{"title": str, "rows": [[str]], "note": str}],
}
_CONFIG = {
    "seeds?": [int],
    "students?": {...: {}},
    "needs?": {...: {}},
    "data?": {"name": str},
    "model?": {},
    "view?": {},
    "optim?": {},
}


def write_results(workdir: Path, results: dict[str, Any]) -> None:
    """Writes ``results.json``, which marks a run as finished."""
    write_sealed(workdir / RESULTS, results)


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Writes an object as JSON, with a hash of its content."""
    write_json(path, integrity.sealed(plain(content)))


def read_sealed(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Reads what ``write_sealed`` wrote.

    Raises:
      UserError: if it is missing, damaged, or not what was written.
    """
    content = parsing.read_json(path, what, remedy)
    with parsing.parsing(path, what, remedy):
        schema.check(content, {}, "the file")
        integrity.check_seal(content)
        content.pop(integrity.SEAL, None)
    return content


def read_results(workdir: Path) -> dict[str, Any]:
    """Reads ``results.json`` of a finished run.

    Raises:
      UserError: if it is missing, damaged, or not what was written.
    """
    path = workdir / RESULTS
    content = read_sealed(path, "the results of a run", _REMEDY)
    with parsing.parsing(path, "the results of a run", _REMEDY):
        pipeline = "pipeline" in content
        schema.check(content, _PIPELINE if pipeline else _TRAINING, "the file")
        if not pipeline and not content["students"]:
            raise ValueError("it holds no student")
    return content


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads ``config.json`` of a run, as JSON types.

    Raises:
      UserError: if it is missing or damaged.
    """
    path = workdir / CONFIG
    content = parsing.read_json(path, "the configuration of a run", _REMEDY)
    with parsing.parsing(path, "the configuration of a run", _REMEDY):
        pipeline = isinstance(content, dict) and "pipeline" in content
        schema.check(content, {} if pipeline else _CONFIG, "the file")
    return content
