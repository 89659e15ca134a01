"""What PyTorch checkpoints call the variables of each network, and how they lie there.

A network's own tree of variables is the source: every module path is rewritten by the
rules of its family, so that nothing can be forgotten. Published names are those of
RepDistiller and mdistiller for small images, and of timm and torchvision for
photographs.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxkd.convert.torch import defi_names
from jaxkd.convert.torch import photograph_names as photographs
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

# Pattern of a network's name -> rules of each layout of names that is around, the one
# that is written first.
FAMILIES: Mapping[str, tuple[Rules, ...]] = {
    r"resnet\d+(x4)?|resnet\d+_imagenet": (_RESNET,),
    r"resnet\d+d": (photographs.RESNET_D,),
    r"ResNet\d+": (_RESNET_4_STAGES,),
    r"wrn_\d+_\d+": (_WRN,),
    r"vgg\d+": (_VGG,),
    r"MobileNetV2": (_MOBILENET_V2,),
    r"MobileNetV1": (_MOBILENET_V1,),
    r"ShuffleV[12]": (_SHUFFLENET,),
    r"embed8|embed_resnet\d+|embed_face18": (_EMBEDDING,),
    r"xception(_tiny)?": (_XCEPTION,),
    r"defi_net(_\w+)?": (defi_names.RULES,),
    r"(vit|deit)_\w+": (photographs.VIT_TIMM, photographs.VIT_TORCHVISION),
    r"convnext_\w+": (photographs.CONVNEXT_TIMM, photographs.CONVNEXT_TORCHVISION),
    r"efficientnet_b\d": (
        photographs.EFFICIENTNET_TIMM,
        photographs.EFFICIENTNET_TORCHVISION,
    ),
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


# Variables of Flax that are parts of one tensor of torch, in its order.
_FUSED = ("query", "key", "value")


class Leaf(NamedTuple):
    """One variable in both worlds.

    Attributes:
      key: in a torch state dictionary.
      path: in the variables, the collection first; None for a batch norm's counter of
        steps, which Flax has not.
      shape: of the torch tensor.
      flax_shape: of the variable.
      axes: the shape between the two, if they differ in more than the order of axes: in
        Flax's order, as many as torch has. Attention has its heads as axes in Flax
        alone, patches their pixels in torch.
      part: which of how many equal parts of the torch tensor, along its first axis.
    """

    key: str
    path: tuple[str, ...] | None
    shape: tuple[int, ...]
    flax_shape: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None
    part: tuple[int, int] = (0, 1)

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        """Returns the variable as torch lays it out, or its part of the tensor."""
        value = value if self.axes is None else value.reshape(self.axes)
        return to_torch(self.path or (), value)

    def from_torch(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the variable, in float32, of a torch tensor."""
        index, count = self.part
        if count > 1:
            tensor = np.split(tensor, count)[index]
        return from_torch(self.path or (), tensor).reshape(self.flax_shape)


def leaves(
    name: str,
    network: nn.Module,
    channels: int = 3,
    keys: Collection[str] | None = None,
) -> list[Leaf]:
    """Lists a network's variables in the order of torch's state dictionary.

    Args:
      name: of the network, such as ``"resnet8x4"``.
      network: the network itself.
      channels: of its images.
      keys: of a state dictionary, which decide between several layouts of names; None
        takes the one that is written.

    Raises:
      UserError: if the names of its family are not known.
    """
    shapes = _shapes(network, channels)
    patch = getattr(network, "patch", 0)
    modules = dict.fromkeys(path[1:-1] for path in shapes if path[0] == "params")
    tables = [
        [leaf for m in modules for leaf in _module(m, rules, shapes, patch)]
        for rules in _rules(name)
    ]
    held = set(keys or ())
    return max(tables, key=lambda table: sum(leaf.key in held for leaf in table))


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


def _rules(name: str) -> tuple[Rules, ...]:
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


def _module(module, rules: Rules, shapes, patch: int) -> Iterator[Leaf]:
    prefix = _rewrite("/".join(module), rules)
    for path, shape in shapes.items():
        if path[1:-1] != module:
            continue
        known = _LEAVES if path[0] == "params" else _STATISTICS
        if path[-1] in known:
            # torch's attention has parameters of its own, not a module's.
            dot = "" if not prefix or prefix.endswith("_") else "."
            key = f"{prefix}{dot}{known[path[-1]]}"
        else:
            key = _rewrite("/".join(path[1:]), rules)
        yield _leaf(key, path, shape, patch)
    if ("batch_stats", *module, "mean") in shapes:
        yield Leaf(f"{prefix}.{COUNTER}", None, ())


def _rewrite(path: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        path = re.sub(pattern, replacement, path)
    return path.replace("/", ".")


def _leaf(key: str, path: tuple[str, ...], shape, patch: int) -> Leaf:
    axes: tuple[int, ...] | None = None
    part = (0, 1)
    name = path[-2] if len(path) > 2 else ""
    if name == "patch_embedding" and path[-1] == "kernel":
        axes = (patch, patch, -1, shape[1])
    elif len(path) > 3 and path[-3] == "attention":
        if name == "out" and path[-1] == "kernel":
            axes = (-1, shape[-1])
        elif name in _FUSED:
            axes = (*shape[:-2], shape[-2] * shape[-1])
            part = (_FUSED.index(name), len(_FUSED))
    leaf = Leaf(key, path, (), tuple(shape), axes, part)
    whole = list(leaf.to_torch(np.empty(shape, np.bool_)).shape)
    if part[1] > 1:
        whole[0] *= part[1]
    return leaf._replace(shape=tuple(whole))
