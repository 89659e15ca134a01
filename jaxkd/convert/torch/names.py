"""What PyTorch checkpoints call the variables of each network, and how they lie there.

A network's own tree of variables is the source: every module path is rewritten by the
rules of its family, so that nothing can be forgotten. Published names are those of
RepDistiller and mdistiller for small images, and of torchvision for photographs.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxkd.convert.torch import defi_names
from jaxkd.core.errors import UserError

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

# Pattern of a module path, joined by slashes -> replacement; applied in this order.
# What no rule changes has the same name there; slashes become dots at the end.
_STAGES = (r"^stage(\d+)_block(\d+)", r"layer\1.\2")
_RESNET: Rules = (
    _STAGES,
    ("shortcut_conv", "downsample.0"),
    ("shortcut_bn", "downsample.1"),
)
_RESNET_4_STAGES: Rules = (
    _STAGES,
    ("shortcut_conv", "shortcut.0"),
    ("shortcut_bn", "shortcut.1"),
    ("^fc$", "linear"),
)
_WRN: Rules = (
    (r"^stage(\d+)_block(\d+)", r"block\1.layer.\2"),
    ("shortcut_conv", "convShortcut"),
)
# Norm and ReLU follow each convolution in one numbered sequence.
_VGG: Rules = (
    (r"_conv(\d+)$", lambda match: f".{3 * int(match[1])}"),
    (r"_bn(\d+)$", lambda match: f".{3 * int(match[1]) + 1}"),
    ("^fc$", "classifier"),
)
_MOBILENET_V2: Rules = (
    (r"^conv(\d)$", r"conv\1.0"),
    (r"^bn(\d)$", r"conv\1.1"),
    (r"^group(\d+)_block(\d+)", r"blocks.\1.\2.conv"),
    ("expand_conv$", "0"),
    ("expand_bn$", "1"),
    ("depthwise_conv$", "3"),
    ("depthwise_bn$", "4"),
    ("project_conv$", "6"),
    ("project_bn$", "7"),
    ("^fc$", "classifier.0"),
)
_MOBILENET_V1: Rules = (
    (r"^unit(\d+)_", r"model.\1."),
    ("depthwise_conv$", "0"),
    ("depthwise_bn$", "1"),
    ("pointwise_conv$", "3"),
    ("pointwise_bn$", "4"),
    (r"\.conv$", ".0"),
    (r"\.bn$", ".1"),
)
# The trunk has torchvision's names; no published names exist for the head.
_EMBEDDING: Rules = (
    (r"^trunk/stage(\d+)_block(\d+)", r"trunk.layer\1.\2"),
    ("shortcut_conv", "downsample.0"),
    ("shortcut_bn", "downsample.1"),
)
_XCEPTION: Rules = ((r"rep_(\d+)", r"rep.\1"),)
_SHUFFLENET: Rules = (_STAGES, ("^fc$", "linear"))

# Pattern of a network's name -> rules.
FAMILIES: Mapping[str, Rules] = {
    r"resnet\d+(x4)?|resnet\d+_imagenet": _RESNET,
    r"ResNet\d+": _RESNET_4_STAGES,
    r"wrn_\d+_\d+": _WRN,
    r"vgg\d+": _VGG,
    r"MobileNetV2": _MOBILENET_V2,
    r"MobileNetV1": _MOBILENET_V1,
    r"ShuffleV[12]": _SHUFFLENET,
    r"embed8|embed_resnet\d+|embed_face18": _EMBEDDING,
    r"xception(_tiny)?": _XCEPTION,
    r"defi_net(_\w+)?": defi_names.RULES,
}

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "directions": "directions",  # of classes: a matrix of the network itself
}
# Matrices and kernels, whose outputs come last in Flax and first in torch.
_TRANSPOSED = ("kernel", "directions")
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
# Torch counts the training steps of each batch norm; it uses the count for nothing
# unless asked to average over all of training.
COUNTER = "num_batches_tracked"


class Leaf(NamedTuple):
    """One variable in both worlds.

    Attributes:
      key: in a torch state dictionary.
      path: in the variables, the collection first; None for a batch norm's counter of
        steps, which Flax has not.
      shape: of the torch tensor.
    """

    key: str
    path: tuple[str, ...] | None
    shape: tuple[int, ...]


def leaves(name: str, network: nn.Module, channels: int = 3) -> list[Leaf]:
    """Lists a network's variables in the order of torch's state dictionary.

    Args:
      name: of the network, such as ``"resnet8x4"``.
      network: the network itself.
      channels: of its images.

    Raises:
      UserError: if the names of its family are not known.
    """
    rules = _rules(name)
    shapes = _shapes(network, channels)
    modules = dict.fromkeys(path[1:-1] for path in shapes if path[0] == "params")
    return [leaf for module in modules for leaf in _module(module, rules, shapes)]


def to_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """Returns a variable as torch lays it out: outputs before inputs before pixels."""
    if path[-1] not in _TRANSPOSED:
        return value
    return np.transpose(value, (3, 2, 0, 1) if value.ndim == 4 else (1, 0))


def from_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """Undoes ``to_torch``; the result is float32."""
    if path[-1] in _TRANSPOSED:
        value = np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else (1, 0))
    return np.ascontiguousarray(value, np.float32)


def _rules(name: str) -> Rules:
    for pattern, rules in FAMILIES.items():
        if re.fullmatch(pattern, name):
            return rules
    raise UserError(
        f"The names that torch checkpoints give to {name!r} are not known. Add its "
        "family to FAMILIES in jaxkd/convert/torch/names.py."
    )


def _shapes(network: nn.Module, channels: int) -> dict[tuple[str, ...], Any]:
    """Returns path -> shape, in the order in which the network makes its variables."""
    order: list[tuple[str, ...]] = []

    def init(key):
        # The shapes of the variables do not depend on the size of the images.
        variables = network.init(key, jnp.zeros((1, 32, 32, channels)))
        # Here, because trees that leave a traced function come back sorted.
        order.extend(traverse_util.flatten_dict(variables))
        return variables

    abstract = jax.eval_shape(init, jax.random.key(0))
    flat = traverse_util.flatten_dict(abstract)
    return {path: flat[path].shape for path in order}


def _module(module: tuple[str, ...], rules: Rules, shapes) -> Iterator[Leaf]:
    prefix = "/".join(module)
    for pattern, replacement in rules:
        prefix = re.sub(pattern, replacement, prefix)
    prefix = prefix.replace("/", ".")
    for collection, known in (("params", _LEAVES), ("batch_stats", _STATISTICS)):
        for leaf, name in known.items():
            path = (collection, *module, leaf)
            if path in shapes:
                shape = to_torch(path, np.empty(shapes[path], np.bool_)).shape
                key = f"{prefix}.{name}" if prefix else name
                yield Leaf(key, path, shape)
    if ("batch_stats", *module, "mean") in shapes:
        yield Leaf(f"{prefix}.{COUNTER}", None, ())
