"""Weights of LPIPS, in the names of the ``lpips`` package and of torchvision.

A ``.safetensors`` file (``python -m jaxkd.convert.lpips`` makes it) with

- ``net.slice<1-5>.<index>.weight`` and ``.bias``, or ``features.<index>.weight`` and
  ``.bias``: the convolutions of AlexNet (index 0, 3, 6, 8, 10) or VGG-16 (0, 2, 5, 7,
  10, 12, 14, 17, 19, 21, 24, 26, 28), ``[out, in, height, width]``;
- ``lin<0-4>.model.1.weight``: the linear heads, ``[1, channels, 1, 1]`` (``model.0``
  without dropout, and ``lins.<0-4>.``, are the same).

Which backbone it is, and its widths, is seen from the shapes. Classifiers
(``classifier.``) are not needed; all else that is unknown is refused.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.models.lpips import BACKBONES, LPIPS, SCALE, SHIFT

_CONV = re.compile(r"(?:(?:net\.)?slice\d\.|features\.)(\d+)\.(weight|bias)")
_HEAD = re.compile(r"lins?\.?(\d)\.model\.[01]\.weight")
_CONSTANTS = {"scaling_layer.shift": SHIFT, "scaling_layer.scale": SCALE}
_IGNORED = "classifier."
COMMAND = "python -m jaxkd.convert.lpips alexnet.pth alex.pth lpips_alex.safetensors"


def read(path: str | Path) -> tuple[LPIPS, dict[str, Any]]:
    """Reads a file of weights; it is read once as long as it does not change.

    Returns:
      The network, and its variables as NumPy arrays.

    Raises:
      UserError: if there is no such file, or it is of another kind or network.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(
            f"There is no file {file} of LPIPS' weights. Make it of downloaded ones by "
            f"{COMMAND}, or leave the option lpips out."
        )
    status = file.stat()
    return _read(file, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)
def _read(file: Path, *version: int) -> tuple[LPIPS, dict[str, Any]]:
    del version
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        state = load_file(file)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no safetensors file: {error}. Expected LPIPS' weights; convert "
            f"those that PyTorch wrote by {COMMAND}."
        ) from error
    return from_state(state, file)


def from_state(
    state: Mapping[str, np.ndarray], origin: str | Path
) -> tuple[LPIPS, dict[str, Any]]:
    """Turns arrays by their public names into a network and its variables.

    Args:
      state: name -> array.
      origin: the file it is from, for error messages.

    Raises:
      UserError: if names or shapes are not those of LPIPS, an array is given twice with
        other values, or a number is not finite.
    """
    found = canonical(state, origin)
    backbone = _backbone(found, origin)
    params: dict[str, Any] = {}
    channels, widths, heads = 3, [], 0
    for layer in BACKBONES[backbone]:
        name = f"features.{layer.number}"
        width = len(found.get(f"{name}.bias", ()))
        shape = (width, channels, layer.size, layer.size)
        kernel = _expect(found, f"{name}.weight", shape, origin)
        params[f"conv{layer.number}"] = {
            "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),
            "bias": _expect(found, f"{name}.bias", (width,), origin),
        }
        widths.append(width)
        channels = width
        if layer.tap:
            key = f"lin{heads}.model.1.weight"
            weight = _expect(found, key, (1, width, 1, 1), origin)
            params[f"lin{heads}"] = {"weight": weight.reshape(-1)}
            heads += 1
    return LPIPS(backbone, tuple(widths)), {"params": params}


def _backbone(found: Mapping[str, np.ndarray], origin: str | Path) -> str:
    """Returns which backbone has convolutions of these numbers."""
    indices = {int(key.split(".")[1]) for key in found if key.startswith("features.")}
    known = {name: [x.number for x in layers] for name, layers in BACKBONES.items()}
    for name, numbers in known.items():
        if indices == set(numbers):
            return name
    raise UserError(
        f"{origin} has convolutions numbered {sorted(indices) or 'none'}, expected "
        f"those of alex, {known['alex']}, or of vgg, {known['vgg']}, beside the heads "
        f"lin0 to lin4. Join both files by {COMMAND}."
    )


def canonical(
    state: Mapping[str, np.ndarray], origin: str | Path
) -> dict[str, np.ndarray]:
    """Gives arrays the names ``features.<index>.`` and ``lin<k>.model.1.weight``.

    Args:
      state: name -> array.
      origin: see ``from_state``.

    Returns:
      name -> float32 array; what LPIPS does not need is left out.

    Raises:
      UserError: see ``from_state``.
    """
    found: dict[str, np.ndarray] = {}
    for key, value in state.items():
        name, array = _name(key), np.asarray(value, np.float32)
        if key in _CONSTANTS:
            if not np.allclose(array.reshape(-1), _CONSTANTS[key], atol=1e-3):
                raise UserError(
                    f"{origin}: {key} is {array.reshape(-1).tolist()}, expected "
                    f"{_CONSTANTS[key]}. Its images are scaled in another way; take "
                    "weights of LPIPS 0.1."
                )
        elif name is None and not key.startswith(_IGNORED):
            raise UserError(
                f"{origin} holds {key!r}, which LPIPS has not. Expected names such as "
                "features.0.weight or net.slice1.0.weight, and lin0.model.1.weight."
            )
        elif name is not None:
            if not np.isfinite(array).all():
                raise UserError(f"{origin}: {key} holds numbers that are not finite.")
            if not np.array_equal(found.setdefault(name, array), array):
                raise UserError(
                    f"{origin} holds {name} twice, with different values. Expected one."
                )
    return found


def _name(key: str) -> str | None:
    if match := _CONV.fullmatch(key):
        return f"features.{match[1]}.{match[2]}"
    if match := _HEAD.fullmatch(key):
        return f"lin{match[1]}.model.1.weight"
    return None


def _expect(
    found: Mapping[str, np.ndarray],
    key: str,
    shape: tuple[int, ...],
    origin: str | Path,
) -> np.ndarray:
    got = found[key].shape if key in found else "missing"
    if got != shape:
        raise UserError(
            f"{origin}: {key} is {got}, expected the shape {shape}. Join the backbone "
            f"and the heads of one network by {COMMAND}."
        )
    return found[key]
