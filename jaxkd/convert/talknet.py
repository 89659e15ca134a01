"""Published weights of CMDFD: student, TalkNet, and the TM-CTC teachers of deep_avsr.

- the official student (``best.model``) and TalkNet's active-speaker checkpoints, whose
  names begin with ``model.``, ``lossAV.``;
- ``audio-only.pt`` and ``video-only.pt`` of smeetrs/deep_avsr.

What a checkpoint holds beyond the network (unused projections, teachers, a table of
positions, the unused 1x1 kernels of layers of stride 1) is named and left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxkd.convert.torch import weights
from jaxkd.core.errors import UserError
from jaxkd.models.talknet import Student
from jaxkd.models.tm_ctc import TMCTC

# Pattern of a variable's path, joined by slashes -> replacement, in this order; slashes
# become dots at the end. What no rule changes has the same name in the checkpoint.
STUDENT_RULES = (
    (r"^visual/frontend/conv/", "model/visualFrontend/frontend3D/0/"),
    (r"^visual/frontend/bn/", "model/visualFrontend/frontend3D/1/"),
    (r"^visual/frontend/", "model/visualFrontend/resnet/"),
    (r"^visual/temporal/block(\d+)/", r"model/visualTCN/net/\1/net/"),
    (r"/net/bn/", "/net/1/"),
    (r"/net/depthwise/", "/net/2/"),
    (r"/net/prelu/slope", "/net/3/weight"),
    (r"/net/norm/", "/net/4/"),
    (r"/net/pointwise/", "/net/5/"),
    (r"^visual/temporal/conv1/", "model/visualConv1D/net/0/"),
    (r"^visual/temporal/bn/", "model/visualConv1D/net/1/"),
    (r"^visual/temporal/conv2/", "model/visualConv1D/net/3/"),
    (r"^audio/layer(\d+)_block(\d+)/", r"model/audioEncoder/layer\1/\2/"),
    (r"^audio/", "model/audioEncoder/"),
    (r"/se/fc1/", "/se/fc/0/"),
    (r"/se/fc2/", "/se/fc/2/"),
    (r"/shortcut_conv/", "/downsample/0/"),
    (r"/shortcut_bn/", "/downsample/1/"),
    (r"^cross_a2v/", "model/crossA2V/"),
    (r"^cross_v2a/", "model/crossV2A/"),
    (r"^self_av/", "model/selfAV/"),
    (r"^fc/", "lossAV/FC/"),
)
_ATTENTION = ((r"/in_proj_kernel$", "/in_proj_weight"),)
_LEAVES = (
    (r"/(kernel|scale)$", "/weight"),
    (r"/mean$", "/running_mean"),
    (r"/var$", "/running_var"),
)
PARTS = ("audio", "video")
BINS = 321  # of the audio teacher's spectrogram


class Converted(NamedTuple):
    """Variables from a checkpoint, and what of it was not taken.

    Attributes:
      variables: ``params`` and, if the network has them, ``batch_stats``.
      unused: names in the checkpoint that no variable has.
    """

    variables: dict[str, Any]
    unused: tuple[str, ...]


def load_student(path: str | Path, **options: Any) -> Converted:
    """Loads the official CMDFD student or a TalkNet checkpoint; executes nothing.

    Args:
      path: such as ``best.model``; a file that PyTorch wrote, or ``.safetensors``.
      **options: widths of ``models.talknet.Student``, where they are not official.

    Raises:
      UserError: if the file cannot be read or is of another network.
    """
    network = Student(**options)
    clip = jnp.zeros((1, 1, 16, 16)), jnp.zeros((1, 4, 13))
    return student(weights.read_state(path), _shapes(network, *clip))


def load_teacher(path: str | Path, part: str, **options: Any) -> Converted:
    """Loads deep_avsr's ``audio-only.pt`` or ``video-only.pt``; executes nothing.

    Args:
      path: a file that PyTorch wrote, or ``.safetensors``.
      part: "audio", of 321 bins, or "video", of lip features.
      **options: of ``models.tm_ctc.TMCTC``, where they are not official.

    Raises:
      UserError: if the file cannot be read or is of another network.
    """
    rows, columns = {"audio": (4, BINS)}.get(part, (1, options.get("width", 512)))
    network = TMCTC(rows=rows, **options)
    variables = _shapes(network, jnp.zeros((1, rows, columns)))
    return teacher(weights.read_state(path), variables, part)


def _shapes(network: nn.Module, *inputs: jax.Array) -> Mapping[str, Any]:
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def student(state: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> Converted:
    """Converts the official CMDFD student or a TalkNet checkpoint.

    Args:
      state: name -> array, as ``read_state`` returns it.
      variables: of the ``Student`` to be filled, of the checkpoint's widths; only
        their shapes matter.

    Raises:
      UserError: if a variable is missing or of another shape.
    """
    if not any(key.startswith("model.") for key in state):
        state = {f"model.{key}": value for key, value in state.items()}
    return _fill(state, variables, STUDENT_RULES)


def teacher(
    state: Mapping[str, np.ndarray], variables: Mapping[str, Any], part: str
) -> Converted:
    """Converts a TM-CTC recogniser of deep_avsr.

    Args:
      state: name -> array; also that of the whole official CMDFD module, from which
        the teacher is taken.
      variables: of the ``TMCTC`` to be filled; only their shapes matter.
      part: "audio" or "video".

    Raises:
      UserError: if a variable is missing or of another shape, or the part unknown.
    """
    if part not in PARTS:
        raise UserError(f"part is {part!r}, expected one of {', '.join(PARTS)}.")
    prefix = {"audio": "ASRmodel.", "video": "VSRmodel."}[part]
    held = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    rules = (
        ("^encoder_layer", f"{part}Encoder/layers/"),
        ("^decoder_layer", f"{part}Decoder/layers/"),
        ("^audio_conv/", "audioConv/"),
        ("^output_conv/", "outputConv/"),
    )
    return _fill(held or state, variables, rules)


def torch_name(path: tuple[str, ...], rules) -> str:
    """Returns what a checkpoint calls the variable at ``path``, collection first."""
    name = "/".join(path[1:])
    for pattern, replacement in (*rules, *_ATTENTION, *_LEAVES):
        name = re.sub(pattern, replacement, name)
    return name.replace("/", ".")


def from_torch(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Lays a torch array out as Flax does: outputs last, inputs before them.

    Args:
      value: a weight ``[out, in, ...]``, or a vector with axes of length 1.
      shape: of the variable.

    Returns:
      float32 of ``shape``; None if the array is of another.
    """
    value = np.asarray(value, np.float32)
    if len(shape) == 1:
        value = value.reshape(-1) if value.size == max(value.shape) else value
    elif value.ndim > 1:
        value = np.moveaxis(value, (0, 1), (-1, -2))
        # Convolutions over whole windows are dense layers here.
        value = value.reshape(-1, value.shape[-1]) if len(shape) == 2 else value
    return np.ascontiguousarray(value) if value.shape == shape else None


def _fill(state, variables, rules) -> Converted:
    filled, used, wrong = {}, set(), []
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        name = torch_name(path, rules)
        used.add(name)
        if name not in state:
            wrong.append(f"{name} is missing")
            continue
        value = from_torch(state[name], tuple(leaf.shape))
        if value is None:
            wrong.append(
                f"{name} is {np.shape(state[name])}, expected to fit {leaf.shape}"
            )
            continue
        filled[path] = value
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise UserError(
            f"The checkpoint is not of this network: {'; '.join(wrong[:6])}{more}. "
            "Check the widths of the network."
        )
    unused = tuple(k for k in state if k not in used and "num_batches_tracked" not in k)
    return Converted(traverse_util.unflatten_dict(filled), unused)
