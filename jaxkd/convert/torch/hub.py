"""Reads folders of the hub's layout: weights beside a ``config.json``.

timm writes ``architecture``, ``num_classes`` and ``pretrained_cfg`` there, with the
mean and standard deviation that the images were normalised with.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxkd.core.errors import UserError

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class Checkpoint(NamedTuple):
    """A file of weights, and what a folder tells of it.

    Attributes:
      weights: the file.
      name: of the network, or None.
      mean: of each channel in [0, 1], that images were normalised with, or None.
      std: likewise.
      size: side of the images in pixels, or None.
    """

    weights: Path
    name: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None


def find(path: Path) -> Checkpoint:
    """Finds the weights in a folder; any other path is the file itself.

    Raises:
      UserError: if a folder has no weights, or its ``config.json`` cannot be read.
    """
    if not path.is_dir():
        return Checkpoint(path)
    held = [path / name for name in _WEIGHTS if (path / name).is_file()]
    if not held:
        raise UserError(
            f"{path} has none of {', '.join(_WEIGHTS)}. Name the file of weights."
        )
    config = path / "config.json"
    if not config.is_file():
        return Checkpoint(held[0])
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        details = content.get("pretrained_cfg", {})
        size = details.get("input_size")
        return Checkpoint(
            held[0],
            content.get("architecture"),
            _numbers(details.get("mean")),
            _numbers(details.get("std")),
            None if size is None else int(size[-1]),
        )
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise UserError(
            f"{config} is no configuration of timm's: {error}. Name the file of "
            "weights, and the network with --model."
        ) from error


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
