"""Networks from torch checkpoints, and torch checkpoints from networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from jaxkd import models
from jaxkd.convert.torch import names, reading, writing
from jaxkd.core import checkpoint, files
from jaxkd.core.errors import UserError

# Where training scripts put the weights, beside the epoch and the optimiser.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "model_ema")
# What torch's wrappers put before every name, in any order: compiled, parallel.
_WRAPPED = ("module.", "_orig_mod.")
# What scripts put before the names of the network, where all begin so.
_ATTRIBUTES = ("model.", "backbone.", "net.")
_AVERAGED = "n_averaged"  # of torch.optim.swa_utils: how many were averaged
PARTS = ("student", "teacher")


def load_torch(
    path: str | Path,
    name: str,
    num_classes: int,
    *,
    part: str | None = None,
    channels: int = 3,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Loads a network's weights from a file that PyTorch wrote; nothing is executed.

    Args:
      path: ``ckpt_epoch_240.pth``, ``student_best``, ``latest``, torchvision's files
        and the like, or a ``.safetensors`` file.
      name: of the network, such as ``"resnet32x4"``.
      num_classes: number of logits.
      part: "student" or "teacher", for a file that holds both; None takes the student
        if the file names its parts.
      channels: of the images.
      options: options of the network, as in ``models.build``.

    Returns:
      The variables of ``models.build(name, num_classes, **options)`` as NumPy arrays.

    Raises:
      UserError: if the file cannot be read, or is of another network; lists what is
        missing, unexpected or of another shape.
    """
    return to_variables(
        read_state(path, part), path, name, num_classes, channels, options
    )


def read_state(
    path: str | Path, part: str | None = None, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Reads the state dictionary in a torch file; see ``load_torch``.

    Args:
      path: of the file.
      part: see ``load_torch``.
      prefix: of the names to take, such as ``"encoder."``; others are left out.

    Returns:
      Name -> array, without the prefixes ``module.``, ``_orig_mod.``, ``student.`` and
      ``teacher.``, without ``model.``, ``backbone.`` or ``net.`` where all begin so,
      and without ``prefix``.

    Raises:
      UserError: if the file cannot be read, no name begins with the prefix, or a number
        is not finite.
    """
    content = reading.read(Path(path))
    state = _find_state(content, path)
    try:
        arrays = {
            key: value.value() if isinstance(value, reading.Tensor) else value
            for key, value in state.items()
        }
    except Exception as error:  # a damaged file can fail in any way at all
        raise UserError(f"{path} is damaged: it holds {error}.") from error
    state = _select_part(arrays, part, path)
    state = _without_prefix(state, prefix, path)
    for key, array in state.items():
        if array.dtype.kind not in "iub" and not np.isfinite(array.astype("f4")).all():
            raise UserError(
                f"{path}: {key} holds numbers that are not finite (NaN or infinity), "
                "expected trained weights: the training diverged. Take an earlier "
                "checkpoint."
            )
    return state


def _without_prefix(
    state: dict[str, np.ndarray], prefix: str, path: str | Path
) -> dict[str, np.ndarray]:
    if not prefix:
        prefix = next(
            (p for p in _ATTRIBUTES if all(key.startswith(p) for key in state)), ""
        )
    elif not prefix.endswith(".") and any(k.startswith(f"{prefix}.") for k in state):
        prefix = f"{prefix}."
    mine = {
        _unwrapped(key.removeprefix(prefix)): array
        for key, array in state.items()
        if key.startswith(prefix)
    }
    if not mine:
        raise UserError(
            f"{path} has no name that begins with {prefix!r}, expected one of the "
            f"beginnings {', '.join(sorted({k.partition('.')[0] for k in state})[:8])}."
        )
    return mine


def _unwrapped(key: str) -> str:
    """Removes what torch's wrappers put before a name, however often.

    >>> _unwrapped("module._orig_mod.module.conv1.weight")
    'conv1.weight'
    """
    while key.startswith(_WRAPPED):
        key = key.partition(".")[2]
    return key


def to_variables(
    state: Mapping[str, np.ndarray],
    origin: str | Path,
    name: str,
    num_classes: int,
    channels: int = 3,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Turns a state dictionary into a network's variables; see ``load_torch``.

    Args:
      state: name -> array.
      origin: the file it is from, for error messages.
      name: of the network.
      num_classes: number of logits.
      channels: of the images.
      options: of the network.
    """
    network = _build(name, num_classes, options)
    table = names.leaves(name, network, channels, state)
    # Checkpoints of torch before 0.4.1 have no counters.
    counters = {leaf.key for leaf in table if leaf.path is None}
    saved = {key: array for key, array in state.items() if key not in counters}
    wanted = {
        leaf.key: np.broadcast_to(np.float32(0), leaf.shape)
        for leaf in table
        if leaf.path
    }
    saved = {
        key: _with_axes(array, wanted[key].shape) if key in wanted else array
        for key, array in saved.items()
    }
    checkpoint.compare(origin, saved, wanted)
    return traverse_util.unflatten_dict(
        {leaf.path: leaf.from_torch(saved[leaf.key]) for leaf in table if leaf.path}
    )


def _with_axes(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Adds or removes axes of length 1 at the end, if that makes it of a shape.

    A 1x1 convolution may lack its axes of pixels (the published Xception does), and a
    scale of channels may have them (torchvision's ConvNeXts).
    """
    rank = min(np.ndim(array), len(shape))
    tail = (*np.shape(array)[rank:], *shape[rank:])
    equal = np.shape(array)[:rank] == shape[:rank] and set(tail) <= {1}
    return np.reshape(array, shape) if equal else array


def count_classes(
    state: Mapping[str, np.ndarray],
    origin: str | Path,
    name: str,
    channels: int = 3,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Returns the number of outputs of the classifier in a state dictionary.

    It is read by the classifier's name; of a network that names none so, by the last
    matrix. Arguments as of ``to_variables``.

    Raises:
      UserError: if there is none.
    """
    table = names.leaves(name, _build(name, 1, options), channels, state)
    keys = [leaf.key for leaf in table if leaf.path == ("params", "fc", "kernel")]
    matrices = [state[key] for key in keys if key in state]
    matrices = matrices or [array for array in state.values() if array.ndim == 2]
    if not matrices:
        raise UserError(
            f"{origin} holds no classifier. Give the number of classes with --classes."
        )
    return len(matrices[-1])


def save_torch(
    path: str | Path,
    variables: Mapping[str, Any],
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Saves a network's weights for PyTorch, in the names of published checkpoints.

    There, ``model.load_state_dict(torch.load(path)["model"])`` takes them up, or, of a
    ``.safetensors`` file, ``model.load_state_dict(load_file(path))``. The counters of
    steps, which torch's batch norms have and Flax's have not, are 0.

    Args:
      path: of the file, which is replaced if it exists; its ending tells the format.
      variables: of the network: ``params`` and ``batch_stats``.
      name: of the network, such as ``"resnet8x4"``.
      options: options of the network, as in ``models.build``.

    Raises:
      UserError: if the variables are of another network.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    table = names.leaves(name, _build(name, 1, options))
    paths = {leaf.path for leaf in table if leaf.path}
    if set(flat) != paths:
        wrong = sorted("/".join(path) for path in set(flat) ^ paths)
        raise UserError(
            f"The variables are not those of a {name}: {', '.join(wrong[:6])} "
            f"{'is' if len(wrong) == 1 else 'are'} only in one of the two. Check the "
            "name and the options of the network."
        )
    counter = np.zeros((), np.int64)
    parts: dict[str, list[np.ndarray]] = {}
    for leaf in table:
        value = counter
        if leaf.path:
            value = leaf.to_torch(np.asarray(flat[leaf.path], np.float32))
        parts.setdefault(leaf.key, []).append(value)
    state = {
        key: np.concatenate(tensors) if len(tensors) > 1 else tensors[0]
        for key, tensors in parts.items()
    }
    if Path(path).suffix.lower() == ".safetensors":
        files.write_tensors(path, state)
    else:
        writing.write(Path(path), state)


ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")


def check_file(path: Path) -> None:
    """Checks that a file of weights can be written at a path.

    Raises:
      UserError: if its folder does not exist, it is a folder, or its ending is that of
        another format.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        found = "is a folder" if path.is_dir() else "is in a folder that is not there"
        raise UserError(f"{path} {found}, expected a file to write. Name another.")
    if path.suffix and path.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{path} ends in {path.suffix}, expected one of {', '.join(ENDINGS)}. "
            "Other formats are written by python -m jaxkd.main --mode=export."
        )


def _build(name: str, num_classes: int, options: Mapping[str, Any] | None) -> nn.Module:
    try:
        return models.build(name, num_classes, **(options or {}))
    except ValueError as error:
        raise UserError(str(error)) from error


def _is_state(content: Any) -> bool:
    arrays = (reading.Tensor, np.ndarray)
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(key, str) for key in content)
        and all(isinstance(value, arrays) for value in content.values())
    )


def _find_state(content: Any, path: str | Path) -> dict[str, Any]:
    candidates = [content]
    if isinstance(content, dict):
        candidates += [content.get(key) for key in _WRAPPERS]
    for candidate in candidates:
        if _is_state(candidate):
            return candidate
    found = type(content).__name__
    if isinstance(content, dict):
        found = "a dictionary of " + ", ".join(map(str, list(content)[:8]))
    raise UserError(
        f"{path} holds {found}. Expected a state dictionary (name -> tensor), alone or "
        f"under one of the names {', '.join(_WRAPPERS)}."
    )


def _select_part(
    state: dict[str, np.ndarray], part: str | None, path: str | Path
) -> dict[str, np.ndarray]:
    state = {
        _unwrapped(key): array
        for key, array in state.items()
        if key.rpartition(".")[2] != _AVERAGED
    }
    held = [p for p in PARTS if any(key.startswith(f"{p}.") for key in state)]
    if part is None and "student" in held:
        part = "student"
    if part not in held and (part or held):
        raise UserError(
            f"{path} holds {' and '.join(held) or 'one network without a role'}, but "
            f"the part asked for is {part}. Ask for what it holds."
        )
    if part is None:
        return state
    prefix = f"{part}."
    mine = {
        key.removeprefix(prefix): array
        for key, array in state.items()
        if key.startswith(prefix)
    }
    return {_unwrapped(key): array for key, array in mine.items()}
