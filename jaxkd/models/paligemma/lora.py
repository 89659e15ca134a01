"""LoRA: low-rank adapters beside frozen matrices, as leaves of the parameter tree.

``W x`` becomes ``W x + (alpha / rank) B A dropout(x)`` (Hu et al., "LoRA: Low-Rank
Adaptation of Large Language Models", arXiv:2106.09685, section 4.1). ``A`` is drawn
from N(0, 1/rank) and ``B`` is zero, so that a fresh adapter changes nothing at all.

An adapter of the query projection lies in the tree as ``attn/lora_q/{a, b}``, beside
``attn/q_einsum/w``; ``add`` puts it there, ``merge`` folds it into the matrix and
``labels`` tells the two apart for an optimiser. The model applies whatever adapters its
parameters hold. Leaves keep the leading axis over the layers that are scanned.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

Params = Mapping[str, Any]
Path = tuple[str, ...]


class Target(NamedTuple):
    """A matrix that can have an adapter.

    Attributes:
      parent: path of the module that holds the adapter.
      leaf: path of the matrix below ``parent``.
      part: index on the axis after the layers where two matrices are stacked.
      inputs: number of axes of the matrix that are contracted with ``x``.
      outputs: number of axes of the result.
      order: axes of the matrix without layer and part, inputs first.
    """

    parent: Path
    leaf: Path
    part: int | None
    inputs: int
    outputs: int
    order: tuple[int, ...]


_ATTENTION: Path = ("llm", "layers", "attn")
_MLP: Path = ("llm", "layers", "mlp")
_VISION: Path = (
    "img",
    "Transformer",
    "encoderblock",
    "MultiHeadDotProductAttention_0",
)

TARGETS: dict[str, Target] = {
    "q": Target(_ATTENTION, ("q_einsum", "w"), None, 1, 2, (1, 0, 2)),
    "k": Target(_ATTENTION, ("kv_einsum", "w"), 0, 1, 2, (1, 0, 2)),
    "v": Target(_ATTENTION, ("kv_einsum", "w"), 1, 1, 2, (1, 0, 2)),
    "o": Target(_ATTENTION, ("attn_vec_einsum", "w"), None, 2, 1, (0, 1, 2)),
    "gate": Target(_MLP, ("gating_einsum",), 0, 1, 1, (0, 1)),
    "up": Target(_MLP, ("gating_einsum",), 1, 1, 1, (0, 1)),
    "down": Target(_MLP, ("linear",), None, 1, 1, (0, 1)),
    "vision_q": Target(_VISION, ("query", "kernel"), None, 1, 2, (0, 1, 2)),
    "vision_k": Target(_VISION, ("key", "kernel"), None, 1, 2, (0, 1, 2)),
    "vision_v": Target(_VISION, ("value", "kernel"), None, 1, 2, (0, 1, 2)),
}
DECODER = ("q", "k", "v", "o", "gate", "up", "down")
VISION = ("vision_q", "vision_k", "vision_v")


def add(
    params: Params, key: jax.Array, *, rank: int, targets: Sequence[str] = DECODER
) -> dict[str, Any]:
    """Adds fresh float32 adapters to a parameter tree; the base stays as it is.

    Args:
      params: of a ``PaliGemma``, without adapters.
      key: of the random numbers in ``A``.
      rank: of the adapters.
      targets: names in ``TARGETS``; by default all seven matrices of the decoder.

    Returns:
      A tree with the leaves of ``params`` and, for each target, ``lora_<target>/a``
      ``[layers, *inputs, rank]`` and ``lora_<target>/b`` ``[layers, rank, *outputs]``.

    Raises:
      ValueError: if a target is unknown or already there, or the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"The rank of LoRA is {rank}. Expected at least 1.")
    flat = traverse_util.flatten_dict(dict(params))
    if any(is_adapter(path) for path in flat):
        raise ValueError(
            "The parameters hold adapters of LoRA already. Merge them first, or add "
            "to the parameters without them."
        )
    for number, name in enumerate(targets):
        target = _target(name)
        matrix = flat[target.parent + target.leaf]
        inputs, outputs = sides(matrix.shape, target)
        layers = matrix.shape[0]
        a = jax.random.normal(
            jax.random.fold_in(key, number), (layers, *inputs, rank), jnp.float32
        )
        place = (*target.parent, f"lora_{name}")
        flat[*place, "a"] = a * rank**-0.5
        flat[*place, "b"] = jnp.zeros((layers, rank, *outputs), jnp.float32)
    return traverse_util.unflatten_dict(flat)


def merge(params: Params, *, alpha: float) -> dict[str, Any]:
    """Folds all adapters into their matrices: ``W + (alpha / rank) B A``.

    Args:
      params: of a ``PaliGemma``, with or without adapters.
      alpha: as in the model's configuration, ``lora_alpha``.

    Returns:
      A tree without adapters. Sums are float32 and rounded once, to the matrix's
      dtype.
    """
    return _fold(params, alpha)


def unmerge(merged: Params, params: Params, *, alpha: float) -> dict[str, Any]:
    """Takes the adapters in ``params`` out of matrices into which they were merged.

    Args:
      merged: as ``merge`` returns.
      params: the adapters, beside matrices that are not looked at.
      alpha: as it was when merging.

    Returns:
      A tree without adapters, equal to the base up to rounding. Who needs the base bit
      for bit keeps it: ``split``.
    """
    flat = traverse_util.flatten_dict(dict(merged))
    flat |= {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(dict(params)).items()
        if is_adapter(path)
    }
    return _fold(traverse_util.unflatten_dict(flat), -alpha)


def split(params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree into its base and its adapters."""
    flat = traverse_util.flatten_dict(dict(params))
    base = {path: leaf for path, leaf in flat.items() if not is_adapter(path)}
    adapters = {path: leaf for path, leaf in flat.items() if is_adapter(path)}
    return traverse_util.unflatten_dict(base), traverse_util.unflatten_dict(adapters)


def combine(base: Params, adapters: Params) -> dict[str, Any]:
    """Puts a base and its adapters into one tree again; undoes ``split``."""
    flat = traverse_util.flatten_dict(dict(base))
    return traverse_util.unflatten_dict(
        flat | traverse_util.flatten_dict(dict(adapters))
    )


def labels(params: Params, *, adapter: str = "train", base: str = "frozen") -> Any:
    """Labels each leaf as an adapter or as part of the base, for ``optax.partition``.

    Args:
      params: of a ``PaliGemma`` with adapters.
      adapter: label of the adapters.
      base: label of all else.
    """
    flat = traverse_util.flatten_dict(dict(params))
    return traverse_util.unflatten_dict(
        {path: adapter if is_adapter(path) else base for path in flat}
    )


def is_adapter(path: Sequence[str]) -> bool:
    """Returns whether a path in the tree is that of an adapter's ``a`` or ``b``."""
    return len(path) > 1 and path[-2].startswith("lora_") and path[-1] in ("a", "b")


def count(tree: Any) -> int:
    """Returns the number of parameters in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def delta(
    adapter: Mapping[str, jax.Array] | None,
    x: jax.Array,
    *,
    inputs: int,
    alpha: float,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array | float:
    """Computes what one layer's adapter adds: ``(alpha / rank) B A dropout(x)``.

    Args:
      adapter: ``a`` ``[*inputs, rank]`` and ``b`` ``[rank, *outputs]``; None for none.
      x: ``[..., *inputs]``.
      inputs: number of axes that are contracted.
      alpha: numerator of the scale.
      dropout: share of ``x`` that is dropped.
      key: of the dropout; None in evaluation.

    Returns:
      ``[..., *outputs]`` in the dtype of ``x``; 0 without an adapter.
    """
    if adapter is None:
        return 0.0
    a, b = adapter["a"].astype(x.dtype), adapter["b"].astype(x.dtype)
    scale = alpha / b.shape[0]
    if key is not None and dropout > 0:
        keep = jax.random.bernoulli(key, 1 - dropout, x.shape)
        x = jnp.where(keep, x / (1 - dropout), 0)
    return jnp.tensordot(jnp.tensordot(x, a, inputs), b, 1) * scale


def _fold(params: Params, alpha: float) -> dict[str, Any]:
    base, adapters = split(params)
    flat = traverse_util.flatten_dict(base)
    given = traverse_util.flatten_dict(adapters)
    for name, target in TARGETS.items():
        place = (*target.parent, f"lora_{name}")
        if (*place, "a") not in given:
            continue
        a, b = given[*place, "a"], given[*place, "b"]
        leaf = target.parent + target.leaf
        flat[leaf] = _fold_one(flat[leaf], a, b, target, alpha / b.shape[1])
    return traverse_util.unflatten_dict(flat)


def _fold_one(matrix, a, b, target: Target, scale: float):
    layers, rank = a.shape[0], b.shape[1]
    product = jnp.matmul(
        jnp.asarray(a, jnp.float32).reshape(layers, -1, rank),
        jnp.asarray(b, jnp.float32).reshape(layers, rank, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
    inputs, outputs = sides(matrix.shape, target)
    change = scale * product.reshape(layers, *inputs, *outputs)
    inverse = sorted(range(len(target.order)), key=target.order.__getitem__)
    change = change.transpose(0, *(1 + axis for axis in inverse))
    whole = jnp.asarray(matrix).astype(jnp.float32)
    if target.part is None:
        whole = whole + change
    else:
        whole = whole.at[:, target.part].add(change)
    return whole.astype(matrix.dtype)


def sides(
    shape: tuple[int, ...], target: Target
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the sizes of a matrix's input and output axes."""
    inner = shape[1 if target.part is None else 2 :]
    ordered = tuple(inner[axis] for axis in target.order)
    return ordered[: target.inputs], ordered[target.inputs :]


def _target(name: str) -> Target:
    if name not in TARGETS:
        raise ValueError(
            f"LoRA has no target {name!r}. Expected some of {', '.join(TARGETS)}."
        )
    return TARGETS[name]
