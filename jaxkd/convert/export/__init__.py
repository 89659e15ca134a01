"""Exports a trained network to a file that is used without jaxkd.

Three formats: ``stablehlo`` (``jax.export``), ``onnx`` (``jax2onnx``) and ``torch``
(weights in the names of published PyTorch checkpoints). A JSON file beside each tells
class names, preprocessing and shapes. What is written is read again and compared with
the network; what cannot be exported is refused with its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxkd
from jaxkd.convert.export import onnx, stablehlo
from jaxkd.convert.torch import weights
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.writers import write_json

# Format -> endings of its files.
FORMATS = {
    "stablehlo": (".stablehlo",),
    "torch": (".pth", ".pt", ".safetensors"),
    "onnx": (".onnx",),
}
# Largest difference between the file's outputs and the network's, where the largest
# output is 1 or less; otherwise in proportion to that.
TOLERANCE = {"stablehlo": 1e-5, "onnx": 1e-4}
# Features that people use in place of logits, exported where a network has them.
FEATURES = ("embedding",)


class Exportable(NamedTuple):
    """A trained network, and what has to be known to use it.

    Attributes:
      network: the module, ``apply(variables, images) -> (logits, features)``.
      variables: ``params`` and the other collections.
      name: of the network, such as ``"resnet8x4"``.
      options: of the network, as in ``models.build``.
      shape: of one example as the network takes it.
      description: whatever else the JSON file shall hold, such as class names.
    """

    network: nn.Module
    variables: Mapping[str, Any]
    name: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    description: Mapping[str, Any]


def write(trained: Exportable, format: str, output: str | Path | None) -> str:
    """Writes a network in one of ``FORMATS``, and a JSON file beside it.

    Args:
      trained: the network.
      format: of the file.
      output: the file, which is replaced if it exists; the other has ``.json`` added.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if the format is unknown, the path does not fit it, a library is
        missing, the network cannot be exported, or the file computes anything else.
    """
    endings = lookup.choose(format, FORMATS, what="--format")
    if output is None or Path(output).suffix not in endings:
        raise UserError(
            f"--output is {str(output) if output else None!r}, expected a file that "
            f"ends in {' or '.join(endings)} for --format={format}."
        )
    path = Path(output)
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output: the folder {path.parent} does not exist.")
    if format == "torch":
        weights.save_torch(
            path, trained.variables, trained.name, options=trained.options
        )
        content = _describe_torch(trained, path)
    else:
        content = _write_graph(trained, format, path)
    beside = path.with_name(path.name + ".json")
    write_json(beside, content)
    checked = content.get("largest_difference")
    equal = "" if checked is None else f"; outputs differ by {checked:.1e} at most"
    return f"{trained.name} as {format} -> {path}, {beside.name}{equal}"


def outputs_of(
    trained: Exportable,
) -> tuple[tuple[str, ...], Callable[[jax.Array], tuple[jax.Array, ...]]]:
    """Returns the names of what is exported, logits first, and what computes it."""

    def features_of(images: jax.Array) -> dict[str, jax.Array]:
        return trained.network.apply(trained.variables, images, train=False)[1]

    images = jax.ShapeDtypeStruct((1, *trained.shape), jnp.float32)
    available = jax.eval_shape(features_of, images)
    kept = [name for name in FEATURES if name in available]

    def function(images: jax.Array) -> tuple[jax.Array, ...]:
        logits, features = trained.network.apply(trained.variables, images, train=False)
        found = (logits, *(features[name] for name in kept))
        return tuple(value.astype(jnp.float32) for value in found)

    return ("logits", *kept), function


def _write_graph(trained: Exportable, format: str, path: Path) -> dict[str, Any]:
    """Writes the file, compares it with the network, and describes it."""
    module = {"stablehlo": stablehlo, "onnx": onnx}[format]
    names, function = outputs_of(trained)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *trained.shape)).astype(np.float32)
    expected = dict(zip(names, map(np.asarray, jax.jit(function)(images)), strict=True))
    try:
        module.write(function, names, trained.shape, path)
        outputs = module.run(path, names, images)
    except UserError:
        raise
    except Exception as error:  # converters fail in their own and many ways
        path.unlink(missing_ok=True)
        raise UserError(
            f"{trained.name} cannot be exported as {format}: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    difference = _largest_difference(outputs, expected)
    if not difference <= TOLERANCE[format]:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{trained.name} was exported as {format}, but the file's outputs differ "
            f"from the network's by {difference:.1e}, expected {TOLERANCE[format]:.0e} "
            "at most, so it was removed. A network in bfloat16 rounds differently "
            "elsewhere: export one that was trained with config.dtype = 'float32'."
        )
    return _describe(trained, format, path) | {
        "input": {
            "name": onnx.INPUT,
            "shape": ["batch", *trained.shape],
            "dtype": "float32",
            "layout": "channels last",
        },
        "outputs": {
            name: ["batch", *value.shape[1:]] for name, value in expected.items()
        },
        "largest_difference": difference,
    }


def _largest_difference(
    outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> float:
    """Returns it in units of the largest output, where that is above 1."""
    differences = [
        np.max(np.abs(outputs[name] - value)) / max(np.max(np.abs(value)), 1.0)
        for name, value in expected.items()
    ]
    return float(max(differences))


def _describe_torch(trained: Exportable, path: Path) -> dict[str, Any]:
    return _describe(trained, "torch", path) | {
        "input": {
            "name": "images",
            "shape": ["batch", trained.shape[-1], *trained.shape[:-1]],
            "dtype": "float32",
            "layout": "channels first",
        },
        "outputs": {"logits": "weights only: build the network in PyTorch"},
    }


def _describe(trained: Exportable, format: str, path: Path) -> dict[str, Any]:
    return {
        "format": format,
        "file": path.name,
        "jaxkd": jaxkd.__version__,
        "model": trained.name,
        "options": _plain(trained.options),
        "parameters": sum(
            int(np.size(x)) for x in jax.tree.leaves(trained.variables["params"])
        ),
        **trained.description,
    }


def _plain(value: Any) -> Any:
    """Returns options as JSON types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else "no reason given"
