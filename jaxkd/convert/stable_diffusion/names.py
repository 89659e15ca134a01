"""Names and layouts of variables in checkpoints of Stable Diffusion and CLIP.

A module's own tree of variables is the source: its paths become keys by the rules
below, so that nothing can be forgotten.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxkd.core import checkpoint
from jaxkd.core.errors import UserError

# Pattern of a path joined by slashes -> replacement; in this order.
_RULES = (
    (r"^(text|image)/", ""),  # the two towers of CLIP
    (r"(down|up)_blocks_(\d+)_([a-z]+)_(\d+)", r"\1_blocks.\2.\3.\4"),
    (r"mid_block_([a-z]+)_(\d+)", r"mid_block.\1.\2"),
    (r"transformer_blocks_(\d+)", r"transformer_blocks.\1"),
    ("time_embedding_", "time_embedding."),
    ("to_out_0", "to_out.0"),
    (r"ff_net_0_proj", "ff.net.0.proj"),
    (r"ff_net_2", "ff.net.2"),
    (r"encoder_layers_(\d+)", r"encoder.layers.\1"),
    ("mlp_fc", "mlp.fc"),
    ("embeddings_", "embeddings."),
    ("/", "."),
)
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# Of the autoencoder's attention, before its layers were renamed.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Numbers of the positions, which some checkpoints keep and nothing needs.
_IGNORED = re.compile(r"embeddings\.position_ids$")

Path = tuple[str, ...]


def key_of(path: Path) -> str:
    """Returns the name in checkpoints of a variable's path."""
    *modules, leaf = path
    key = "/".join((*modules, _LEAVES.get(leaf, leaf)))
    for pattern, replacement in _RULES:
        key = re.sub(pattern, replacement, key)
    return key


def to_checkpoint(path: Path, value: np.ndarray) -> np.ndarray:
    """Returns a variable as checkpoints lay it out: outputs before inputs."""
    if path[-1] != "kernel":
        return value
    return np.transpose(value, (3, 2, 0, 1) if value.ndim == 4 else (1, 0))


def from_checkpoint(path: Path, value: np.ndarray) -> np.ndarray:
    """Undoes ``to_checkpoint``."""
    if path[-1] != "kernel":
        return value
    return np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else (1, 0))


def to_params(
    state: Mapping[str, np.ndarray], shapes: Any, origin: Any, dtype: Any
) -> dict[str, Any]:
    """Turns a state dictionary into the parameters of a module, strictly.

    Args:
      state: name -> array of a checkpoint.
      shapes: the module's parameters, or their shapes.
      origin: where the dictionary is from, for error messages.
      dtype: of the result, whatever the precision of the file.

    Raises:
      UserError: if it is of another module; lists what is missing, unexpected or of
        another shape. Or if its numbers are no weights: whole numbers, as of quantised
        files, not finite, or too large for ``dtype``.
    """
    flat = traverse_util.flatten_dict(dict(shapes))
    expected = {
        key_of(path): np.broadcast_to(np.float32(0), _outer_shape(path, leaf.shape))
        for path, leaf in flat.items()
    }
    taken = [key for key in state if not _IGNORED.search(key)]
    saved = {_renamed(key): state[key] for key in taken}
    if len(saved) < len(taken):
        twice = sorted(key for key in taken if _renamed(key) != key)
        raise UserError(
            f"{origin} has variables under their old and under their new names: "
            f"{', '.join(twice[:6])}. Remove either."
        )
    saved = {key: _fitted(array, expected.get(key)) for key, array in saved.items()}
    checkpoint.compare(origin, saved, expected)
    return traverse_util.unflatten_dict(
        {
            path: _cast(
                from_checkpoint(path, saved[key_of(path)]),
                dtype,
                f"{origin}: {key_of(path)}",
            )
            for path in flat
        }
    )


def to_state(params: Any, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Turns parameters into a state dictionary; undoes ``to_params``.

    Raises:
      UserError: if they are not finite, or too large for ``dtype``.
    """
    flat = traverse_util.flatten_dict(dict(params))
    state = {
        key_of(path): _cast(
            to_checkpoint(path, np.asarray(leaf)), dtype, "/".join(map(str, path))
        )
        for path, leaf in flat.items()
    }
    if len(state) != len(flat):
        raise UserError("Two parameters have one name in checkpoints.")
    return state


def _cast(array: np.ndarray, dtype: Any, origin: str) -> np.ndarray:
    """Copies weights into another precision.

    Raises:
      UserError: if they are no weights, or do not fit into it.
    """
    for kind in (array.dtype, np.dtype(dtype)):
        if not jnp.issubdtype(kind, jnp.floating):
            raise UserError(
                f"{origin} is of {array.dtype} and is needed in {np.dtype(dtype)}; "
                "expected floating-point numbers of both. Quantised files are not read."
            )
    with np.errstate(over="ignore"):
        cast = np.array(array, dtype=dtype, order="C")
    if not np.isfinite(cast).all():
        if np.isfinite(array).all():
            raise UserError(
                f"{origin} holds numbers that are too large for {np.dtype(dtype)}, up "
                f"to {np.max(np.abs(array)):g}. Use float32 or bfloat16."
            )
        raise UserError(
            f"{origin} holds numbers that are not finite (NaN or infinity), expected "
            "trained weights: the training diverged. Take an earlier checkpoint."
        )
    return cast


def _outer_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return to_checkpoint(path, np.broadcast_to(np.float32(0), shape)).shape


def _renamed(key: str) -> str:
    parts = key.split(".")
    if len(parts) > 2 and parts[-2] in _OLD and "attentions" in parts:
        parts[-2] = _OLD[parts[-2]]
    return ".".join(parts)


def _fitted(array: np.ndarray, expected: np.ndarray | None) -> np.ndarray:
    """Squeezes a 1x1 convolution where a dense layer is expected."""
    if expected is not None and array.ndim == 4 and expected.ndim == 2:
        return array[:, :, 0, 0] if array.shape[2:] == (1, 1) else array
    return array
