"""Where PaliGemma's parameters lie on a mesh: fully sharded, and split by tensor.

Along the axis "model", attention is split by heads, MLPs by their hidden features and
the embedding table by its rows, so that each block needs one sum over devices after
attention and one after the MLP. The one head of keys and values is replicated. Along
"fsdp", every leaf of some size is split on its largest axis that divides. Neither ever
splits the axis over layers, which is scanned. Batches go along "data" and "fsdp".
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "model")
BATCH = PartitionSpec(("data", "fsdp"))
# Splitting smaller leaves costs more in messages than it saves in memory.
FSDP_MIN_SIZE = 2**16

# Pattern of a leaf's path -> the axis that is split along "model".
MODEL_RULES: tuple[tuple[str, int], ...] = (
    (r"embedder/input_embedding$", 0),
    (r"attn/q_einsum/w$", 1),
    (r"attn/attn_vec_einsum/w$", 1),
    (r"attn/lora_q/b$", 2),
    (r"attn/lora_o/a$", 1),
    (r"mlp/gating_einsum$", 3),
    (r"mlp/linear$", 1),
    (r"mlp/lora_(gate|up)/b$", 2),
    (r"mlp/lora_down/a$", 1),
    (r"MultiHeadDotProductAttention_0/(query|key|value)/kernel$", 2),
    (r"MultiHeadDotProductAttention_0/(query|key|value)/bias$", 1),
    (r"MultiHeadDotProductAttention_0/lora_vision_[qkv]/b$", 2),
    (r"MultiHeadDotProductAttention_0/out/kernel$", 1),
    (r"MlpBlock_0/Dense_0/kernel$", 2),
    (r"MlpBlock_0/Dense_0/bias$", 1),
    (r"MlpBlock_0/Dense_1/kernel$", 1),
)
_STACKED = re.compile(r"(^|/)(encoderblock|layers)/")


def partition_spec(
    path: str, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> PartitionSpec:
    """Returns how one leaf is split.

    The path may lead on from somewhere else, such as an optimiser's state.

    >>> tuple(partition_spec("llm/layers/mlp/linear", (18, 16384, 2048),
    ...                      {"fsdp": 4, "model": 2}))
    (None, 'model', 'fsdp')

    Args:
      path: names joined by "/", ending as in PaliGemma's tree.
      shape: of the leaf.
      sizes: devices along "fsdp" and "model"; those not named are 1.
    """
    axes: list[str | None] = [None] * len(shape)
    fsdp, model = sizes.get("fsdp", 1), sizes.get("model", 1)
    rule = next((axis for at, axis in MODEL_RULES if re.search(at, path)), None)
    if rule is not None and model > 1 and shape[rule] % model == 0:
        axes[rule] = "model"
    first = 1 if _STACKED.search(path) else 0
    free = [
        axis
        for axis in range(first, len(shape))
        if axes[axis] is None and shape[axis] % fsdp == 0
    ]
    if fsdp > 1 and free and math.prod(shape) >= FSDP_MIN_SIZE:
        axes[max(free, key=shape.__getitem__)] = "fsdp"
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Returns a sharding for each leaf of a tree of parameters or of what trains them.

    Args:
      mesh: with axes "fsdp" and "model"; "data" may be there, too.
      tree: of arrays or abstract values.
    """

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(one, tree)
