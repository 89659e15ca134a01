"""Reads tensors one by one from safetensors files, sharded or not, and ``.npz``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxkd.core import arrays, parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import listing

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_WHAT = "a whole safetensors file"
_REMEDY = "Expected .safetensors or .npz; download it anew."


class TensorFile(NamedTuple):
    """Tensors on disk.

    Attributes:
      path: file or folder, for error messages.
      shapes: name -> shape.
      read: name -> array; reads that tensor alone.
      is_hub: whether it has the hub's layout rather than big_vision's.
      described: content of the ``config.json`` beside it; empty if there is none.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    is_hub: bool
    described: Mapping[str, Any]


def open_tensors(path: str | Path) -> TensorFile:
    """Opens a checkpoint: a folder of the hub, a safetensors file, or an ``.npz``.

    Which of them a file is, its first bytes tell.

    Raises:
      UserError: if there is none, a shard is missing, or a file is damaged.
    """
    path = Path(path)
    file = _find(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There is no file {file}. Give a checkpoint that exists.")
    described = _read_json(file.with_name("config.json"), optional=True)
    if file.name == INDEX:
        return _open_safetensors(path, _shards(file), described)
    with file.open("rb") as stream:
        start = stream.read(4)
    if start[:2] == b"PK":
        return _open_npz(file, described)
    return _open_safetensors(file, [file], described)


def _find(folder: Path) -> Path:
    for name in (INDEX, SINGLE):
        if (folder / name).is_file():
            return folder / name
    inside = [folder / name for name in listing.entries(folder)]
    candidates = [path for path in inside if path.suffix in (".safetensors", ".npz")]
    if len(candidates) != 1:
        shown = ", ".join(sorted(p.name for p in candidates)) or "none"
        raise UserError(
            f"{folder} holds no {INDEX}, no {SINGLE}, and not one single .safetensors "
            f"or .npz (found: {shown}). Give the checkpoint file itself."
        )
    return candidates[0]


def _shards(index: Path) -> list[Path]:
    content = _read_json(index)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise UserError(f"{index} has no weight_map. Download it anew.")
    names = sorted({str(name) for name in table.values()})
    # A name with a folder in it could lead anywhere.
    paths = [index.with_name(Path(name).name) for name in names]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise UserError(
            f"{index.parent} lacks {', '.join(missing)}, of {len(paths)} files that "
            f"{INDEX} lists. Download the missing ones."
        )
    return paths


def _open_safetensors(path: Path, files: list[Path], described) -> TensorFile:
    from safetensors import safe_open

    opened, shapes = {}, {}
    for file in files:
        with parsing.parsing(file, _WHAT, _REMEDY):
            handle = safe_open(file, framework="np")
            for name in handle.keys():  # noqa: SIM118 - it is no dictionary
                opened[name] = handle
                shapes[name] = tuple(handle.get_slice(name).get_shape())

    def read(name: str) -> np.ndarray:
        with parsing.parsing(path, _WHAT, _REMEDY):
            return opened[name].get_tensor(name)

    return TensorFile(path, shapes, read, True, described)


def _open_npz(path: Path, described) -> TensorFile:
    what, remedy = "an .npz file of tensors", "Download it anew."
    with arrays.open_npz(path, what, remedy) as archive:
        names = [n for n in archive.names if n.startswith("params/")] or archive.names
        saved = {name.removeprefix("params/"): name for name in names}
        shapes = {name: archive.shape(inside) for name, inside in saved.items()}

    def read(name: str) -> np.ndarray:
        with arrays.open_npz(path, what, remedy) as archive:
            array = archive.read(saved[name])
        # NumPy has no bfloat16: it stores, and returns, two bytes without a meaning.
        is_bfloat16 = array.dtype.kind == "V" and array.dtype.itemsize == 2
        return array.view(ml_dtypes.bfloat16) if is_bfloat16 else array

    return TensorFile(path, shapes, read, False, described)


def _read_json(path: Path, optional: bool = False) -> Any:
    if optional and not path.is_file():
        return {}
    return parsing.read_json(path, "JSON", "Download it anew.")
