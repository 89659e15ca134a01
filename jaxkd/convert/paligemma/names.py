"""Names of PaliGemma's tensors on the model hub, and how each becomes one of ours.

Ours are big_vision's: layers are stacked along the first axis, keys with values and
gates with inputs along the second, and kernels are ``[in, out]``.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.models.paligemma import GemmaConfig, PaliGemmaConfig

VISION, PROJECTOR = "vision_tower.vision_model", "multi_modal_projector.linear"
TEXT, HEAD = "language_model.model", "lm_head.weight"
TABLE = f"{TEXT}.embed_tokens.weight"

# Prefixes of exported names: (vision, projector, text).
FAMILIES = {
    "hub": (VISION, PROJECTOR, TEXT),
    "in_memory": (
        "model.vision_tower.vision_model",
        "model.multi_modal_projector.linear",
        "model.language_model",
    ),
}


class Leaf(NamedTuple):
    """One of our leaves, and the tensors on the hub that it is made of.

    Attributes:
      path: names in the tree, joined by "/".
      shape: of the leaf.
      tensors: hub names, by layer, then by part; one row and column where there is
        nothing to stack.
      kind: "same", "conv", "linear" or "heads"; see ``from_hub``.
      hub_shape: of each tensor.
      stacked: leading axes of the leaf that run over ``tensors``: 0, 1 or 2.
    """

    path: str
    shape: tuple[int, ...]
    tensors: tuple[tuple[str, ...], ...]
    kind: str
    hub_shape: tuple[int, ...]
    stacked: int


def table(config: PaliGemmaConfig) -> list[Leaf]:
    """Lists all leaves of a model with the names of their tensors."""
    return [*_vision(config), *_text(config.text)]


def from_hub(leaf: Leaf, tensor: np.ndarray) -> np.ndarray:
    """Turns one tensor of the hub into one layer and part of a leaf; a view."""
    shape = leaf.shape[leaf.stacked :]
    if leaf.kind == "conv":
        return tensor.transpose(2, 3, 1, 0)
    if leaf.kind == "linear":
        return tensor.T.reshape(shape)
    if leaf.kind == "heads":  # [heads * dim, width] -> [heads, width, dim]
        heads, width, dim = shape
        return tensor.reshape(heads, dim, width).transpose(0, 2, 1)
    return tensor.reshape(shape)


def to_hub(leaf: Leaf, array: np.ndarray) -> np.ndarray:
    """Turns one layer and part of a leaf into the hub's tensor; undoes ``from_hub``."""
    rows, columns = leaf.hub_shape[0], leaf.hub_shape[-1]
    if leaf.kind == "conv":
        return array.transpose(3, 2, 0, 1)
    if leaf.kind == "linear":
        return array.reshape(columns, rows).T
    if leaf.kind == "heads":
        return array.transpose(0, 2, 1).reshape(rows, columns)
    return array.reshape(leaf.hub_shape)


def spell(name: str, family: str) -> str:
    """Returns a canonical name with the prefixes of one of ``FAMILIES``."""
    for prefix, other in zip(FAMILIES["hub"], FAMILIES[family], strict=True):
        if name.startswith(f"{prefix}."):
            return other + name.removeprefix(prefix)
    return name


def canonical(name: str) -> str:
    """Returns a tensor's name as published files have it.

    Known spellings: ``language_model.model.*`` of published files,
    ``model.language_model.*`` of newer libraries' memory, ``language_model.lm_head.*``,
    a leading ``base_model.model.`` and a ``.base_layer`` of adapted models, and the
    vision tower with or without ``vision_model.``.
    """
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    name = re.sub(r"^model\.(?=language_model|vision_tower|multi_modal)", "", name)
    name = re.sub(r"^(model\.|language_model\.)?lm_head\.", "lm_head.", name)
    name = re.sub(r"^language_model\.(model\.)?", f"{TEXT}.", name)
    return re.sub(r"^vision_tower\.(vision_model\.)?", f"{VISION}.", name)


def canonical_names(names: Iterable[str], origin: Any) -> dict[str, str]:
    """Returns canonical name -> name in the file.

    Raises:
      UserError: if two names of the file mean the same tensor.
    """
    found: dict[str, str] = {}
    for name in names:
        key = canonical(name)
        if key in found:
            raise UserError(
                f"{origin} holds both {found[key]} and {name}, which are the same "
                "tensor. Expected one checkpoint in the folder or file."
            )
        found[key] = name
    return found


def _vision(config: PaliGemmaConfig) -> list[Leaf]:
    size, width = config.vision, config.vision.width
    heads = (size.heads, width // size.heads)
    block = "img/Transformer/encoderblock"
    attention = f"{block}/MultiHeadDotProductAttention_0"

    def one(path, name, shape, kind="same", hub=None):
        return Leaf(path, shape, ((name,),), kind, hub or shape, 0)

    def stack(path, name, shape, kind="same", hub=None):
        layers = f"{VISION}.encoder.layers"
        names = tuple((f"{layers}.{i}.{name}",) for i in range(size.depth))
        return Leaf(path, (size.depth, *shape), names, kind, hub or shape, 1)

    square, side = (width, width), size.patch
    leaves = [
        one(
            "img/embedding/kernel",
            f"{VISION}.embeddings.patch_embedding.weight",
            (side, side, 3, width),
            "conv",
            (width, 3, side, side),
        ),
        one(
            "img/embedding/bias",
            f"{VISION}.embeddings.patch_embedding.bias",
            (width,),
        ),
        one(
            "img/pos_embedding",
            f"{VISION}.embeddings.position_embedding.weight",
            (1, size.tokens, width),
            hub=(size.tokens, width),
        ),
        one(
            "img/Transformer/encoder_norm/scale",
            f"{VISION}.post_layernorm.weight",
            (width,),
        ),
        one(
            "img/Transformer/encoder_norm/bias",
            f"{VISION}.post_layernorm.bias",
            (width,),
        ),
        one(
            "img/head/kernel",
            f"{PROJECTOR}.weight",
            (width, config.text.width),
            "linear",
            (config.text.width, width),
        ),
        one("img/head/bias", f"{PROJECTOR}.bias", (config.text.width,)),
        stack(
            f"{attention}/out/kernel",
            "self_attn.out_proj.weight",
            (*heads, width),
            "linear",
            square,
        ),
        stack(f"{attention}/out/bias", "self_attn.out_proj.bias", (width,)),
    ]
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        name, shape = f"self_attn.{theirs}_proj", (width, *heads)
        leaves += [
            stack(
                f"{attention}/{ours}/kernel", f"{name}.weight", shape, "linear", square
            ),
            stack(f"{attention}/{ours}/bias", f"{name}.bias", heads, hub=(width,)),
        ]
    for i, sides in enumerate(((width, size.mlp), (size.mlp, width))):
        norm, dense = f"{block}/LayerNorm_{i}", f"{block}/MlpBlock_0/Dense_{i}"
        name = f"mlp.fc{i + 1}"
        leaves += [
            stack(f"{norm}/scale", f"layer_norm{i + 1}.weight", (width,)),
            stack(f"{norm}/bias", f"layer_norm{i + 1}.bias", (width,)),
            stack(f"{dense}/kernel", f"{name}.weight", sides, "linear", sides[::-1]),
            stack(f"{dense}/bias", f"{name}.bias", sides[1:]),
        ]
    return leaves


def _text(size: GemmaConfig) -> list[Leaf]:
    width, dim, layers = size.width, size.head_dim, "llm/layers"

    def stack(path, names, shape, kind="same", hub=None):
        tensors = tuple(
            tuple(f"{TEXT}.layers.{i}.{name}.weight" for name in names)
            for i in range(size.depth)
        )
        parts = (len(names),) if len(names) > 1 else ()
        whole = (size.depth, *parts, *shape)
        return Leaf(path, whole, tensors, kind, hub or shape, 1 + len(parts))

    queries, keys = size.heads * dim, size.kv_heads * dim
    return [
        Leaf(
            "llm/embedder/input_embedding",
            (size.vocabulary, width),
            ((TABLE,),),
            "same",
            (size.vocabulary, width),
            0,
        ),
        Leaf(
            "llm/final_norm/scale",
            (width,),
            ((f"{TEXT}.norm.weight",),),
            "same",
            (width,),
            0,
        ),
        stack(f"{layers}/pre_attention_norm/scale", ("input_layernorm",), (width,)),
        # The hub's name is misleading: this is the norm before the MLP.
        stack(f"{layers}/pre_ffw_norm/scale", ("post_attention_layernorm",), (width,)),
        stack(
            f"{layers}/attn/q_einsum/w",
            ("self_attn.q_proj",),
            (size.heads, width, dim),
            "heads",
            (queries, width),
        ),
        stack(
            f"{layers}/attn/kv_einsum/w",
            ("self_attn.k_proj", "self_attn.v_proj"),
            (size.kv_heads, width, dim),
            "heads",
            (keys, width),
        ),
        stack(
            f"{layers}/attn/attn_vec_einsum/w",
            ("self_attn.o_proj",),
            (size.heads, dim, width),
            "linear",
            (width, queries),
        ),
        stack(
            f"{layers}/mlp/gating_einsum",
            ("mlp.gate_proj", "mlp.up_proj"),
            (width, size.mlp),
            "linear",
            (size.mlp, width),
        ),
        stack(
            f"{layers}/mlp/linear",
            ("mlp.down_proj",),
            (size.mlp, width),
            "linear",
            (width, size.mlp),
        ),
    ]
