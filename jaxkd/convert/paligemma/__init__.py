"""PaliGemma's weights in and out: the model hub's files, big_vision's, and adapters.

    config, params = load_paligemma("paligemma-3b-pt-224", dtype="bfloat16")
    logits = PaliGemma(config).apply({"params": params}, images, tokens, ...)

Tensors are read one by one, cast, stacked into one of our leaves, and laid out at once
where ``sharding`` puts them: the host never holds more than one leaf.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxkd.convert.paligemma import names, sizes
from jaxkd.convert.paligemma.files import INDEX, SINGLE, TensorFile, open_tensors
from jaxkd.convert.paligemma.peft import load_adapter, save_adapter
from jaxkd.core import checkpoint
from jaxkd.core.errors import UserError
from jaxkd.core.files import write_tensors
from jaxkd.models.paligemma import (
    PRESETS,
    GemmaConfig,
    PaliGemmaConfig,
    SiglipConfig,
    lora,
)

__all__ = [
    "load_adapter",
    "load_paligemma",
    "open_tensors",
    "save_adapter",
    "save_paligemma",
]

DTYPES = ("float32", "bfloat16")
# What one file of an exported model holds at most, as on the hub.
SHARD_BYTES = 5 * 10**9

# One sharding for all leaves; one for each; or a function of a leaf's path, such as
# "llm/layers/mlp/linear", and its abstract value.
Sharding = (
    jax.sharding.Sharding
    | Mapping[str, Any]
    | Callable[[str, jax.ShapeDtypeStruct], jax.sharding.Sharding]
)


def load_paligemma(
    folder_or_file: str | Path,
    *,
    dtype: Any,
    sharding: Sharding | None = None,
) -> tuple[PaliGemmaConfig, dict[str, Any]]:
    """Loads a PaliGemma; nothing is executed.

    Args:
      folder_or_file: a folder of the hub (``model.safetensors``, or its shards with
        their index), one such file, or big_vision's ``.npz``. Sizes are read from the
        tensors' shapes, and from ``config.json`` where it lies beside.
      dtype: of the parameters and the activations, float32 or bfloat16.
      sharding: where leaves lie; by default on the first device.

    Returns:
      The configuration, and the parameters of ``PaliGemma(configuration)``.

    Raises:
      UserError: if the files are missing, damaged or of another model; lists what is
        missing, unexpected or of another shape.
    """
    dtype = _dtype(dtype)
    file = open_tensors(folder_or_file)
    config = _check(file)
    config = dataclasses.replace(config, dtype=dtype.name)
    abstract = {
        leaf.path: jax.ShapeDtypeStruct(leaf.shape, dtype)
        for leaf in names.table(config)
    }
    layouts = _layouts(sharding, abstract)
    flat = {}
    for leaf in names.table(config):
        whole = _assemble(file, leaf, dtype)
        flat[leaf.path] = _lay_out(whole, layouts[leaf.path])
    return config, traverse_util.unflatten_dict(flat, sep="/")


def save_paligemma(
    folder: str | Path,
    config: PaliGemmaConfig,
    params: Mapping[str, Any],
    *,
    family: str = "hub",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a model in the hub's layout, with its adapters merged.

    Tensors keep their dtype: what was loaded in the file's own comes back bit by bit.

    Args:
      folder: to write into; made if there is none.
      config: of the model.
      params: of it.
      family: prefixes of the names, "hub" or "in_memory"; see ``names.FAMILIES``.
      shard_bytes: what one file holds at most.

    Raises:
      UserError: if the parameters are not the model's, or the family is unknown.
    """
    if family not in names.FAMILIES:
        raise UserError(
            f"There is no family of names {family!r}. Expected one of "
            f"{', '.join(names.FAMILIES)}."
        )
    merged = lora.merge(params, alpha=config.lora_alpha)
    leaves = {leaf.path: leaf for leaf in names.table(config)}
    flat = traverse_util.flatten_dict(merged, sep="/")
    checkpoint.compare("in memory", flat, _abstract(leaves.values()))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("model*.safetensors"), folder / INDEX):
        old.unlink(missing_ok=True)
    _write_shards(folder, leaves, flat, family, shard_bytes)
    dtype = str(flat["llm/embedder/input_embedding"].dtype)
    described = sizes.describe(dataclasses.replace(config, dtype=dtype))
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def published_count(config: PaliGemmaConfig) -> int | None:
    """Returns the parameters of a published model of these sizes, or None.

    2,923,466,480 for the one of 224 pixels; larger images add positions.
    """
    plain = dataclasses.replace(config, dtype="float32", remat=False)
    for known in PRESETS.values():
        if (plain.vision, plain.text) == (known.vision, known.text):
            return sum(int(np.prod(leaf.shape)) for leaf in names.table(known))
    return None


def network_options(config: PaliGemmaConfig) -> dict[str, Any]:
    """Returns the options of the network "paligemma" that has a model's sizes."""
    vision, text = config.vision, config.text
    return {
        "preset": "3b-224",
        "image_shape": vision.image_shape,
        "patch": vision.patch,
        **{
            f"vision_{k}": getattr(vision, k)
            for k in ("width", "depth", "heads", "mlp")
        },
        **{f"text_{k}": getattr(text, k) for k in ("width", "depth", "heads", "mlp")},
        "text_head_dim": text.head_dim,
        "vocabulary": text.vocabulary,
    }


def _dtype(dtype: Any) -> np.dtype:
    found = jnp.dtype(dtype)
    if found.name not in DTYPES:
        raise UserError(
            f"The dtype of PaliGemma is {found.name}. Expected one of "
            f"{', '.join(DTYPES)}: float16 overflows in Gemma."
        )
    return found


def _check(file: TensorFile) -> PaliGemmaConfig:
    """Infers a model's sizes and compares all tensors with those it has."""
    if not file.is_hub:
        config = _infer_stacked(file)
        expected = _abstract(names.table(config))
        checkpoint.compare(file.path, _Shape.of(file.shapes), expected)
        return config
    found = names.canonical_names(file.shapes, file.path)
    shapes = {key: file.shapes[name] for key, name in found.items()}
    config = sizes.infer(shapes, file.described, file.path)
    if names.HEAD in found:
        _check_head(file, found)
        shapes.pop(names.HEAD)
    expected = {
        name: _Shape(leaf.hub_shape)
        for leaf in names.table(config)
        for row in leaf.tensors
        for name in row
    }
    checkpoint.compare(file.path, _Shape.of(shapes), expected)
    return config


def _check_head(file: TensorFile, found: Mapping[str, str]) -> None:
    """Refuses an output layer that is not the embedding table."""
    head, table = (file.read(found[name]) for name in (names.HEAD, names.TABLE))
    if head.shape != table.shape or head.tobytes() != table.tobytes():
        raise UserError(
            f"{file.path} has an output layer ({found[names.HEAD]}) that differs from "
            "its embedding table. Expected none, or a copy: PaliGemma ties them."
        )


def _infer_stacked(file: TensorFile) -> PaliGemmaConfig:
    """Reads the sizes from big_vision's shapes, by the hub's names for them."""
    block = "img/Transformer/encoderblock"
    renamed = {
        "img/embedding/kernel": "kernel",
        "img/pos_embedding": "positions",
        f"{block}/MultiHeadDotProductAttention_0/query/kernel": "vision_query",
        f"{block}/MlpBlock_0/Dense_0/kernel": "vision_mlp",
        "llm/embedder/input_embedding": "table",
        "llm/layers/attn/q_einsum/w": "query",
        "llm/layers/attn/kv_einsum/w": "keys",
        "llm/layers/mlp/linear": "mlp",
    }
    missing = [path for path in renamed if path not in file.shapes]
    if missing:
        raise UserError(
            f"{file.path} holds no PaliGemma of big_vision: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, under params/ or not."
        )
    size = {name: file.shapes[path] for path, name in renamed.items()}
    try:
        _, patch, _, _ = size["kernel"]
        vision_depth, vision_width, vision_heads, _ = size["vision_query"]
        depth, heads, width, head_dim = size["query"]
        kv_heads = size["keys"][2]
        described = file.described.get("vision_config", {})
        image_shape = sizes.image_shape(
            described.get("image_size"), size["positions"][1], patch, file.path
        )
        return PaliGemmaConfig(
            SiglipConfig(
                image_shape,
                patch,
                vision_width,
                vision_depth,
                vision_heads,
                size["vision_mlp"][2],
            ),
            GemmaConfig(
                width,
                depth,
                size["mlp"][1],
                heads,
                kv_heads,
                head_dim,
                size["table"][0],
            ),
        )
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{file.path} holds no PaliGemma of big_vision: an array has another "
            f"number of axes ({size})."
        ) from error


class _Shape:
    """Something with a shape, for comparisons."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, "_Shape"]:
        return {name: cls(shape) for name, shape in shapes.items()}


def _abstract(leaves) -> dict[str, _Shape]:
    return {leaf.path: _Shape(leaf.shape) for leaf in leaves}


def _assemble(file: TensorFile, leaf: names.Leaf, dtype: np.dtype) -> np.ndarray:
    """Reads, casts and stacks the tensors of one leaf."""
    if not file.is_hub:
        return file.read(leaf.path).astype(dtype)
    found = names.canonical_names(file.shapes, file.path)
    whole = np.empty(leaf.shape, dtype)
    stacked = [len(leaf.tensors), len(leaf.tensors[0])][: leaf.stacked]
    for i, row in enumerate(leaf.tensors):
        for j, name in enumerate(row):
            place = (i, j)[: len(stacked)]
            whole[place] = names.from_hub(leaf, file.read(found[name]))
    return whole


def _layouts(sharding: Sharding | None, abstract: Mapping[str, Any]) -> dict[str, Any]:
    if sharding is None:
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return dict.fromkeys(abstract, first)
    if isinstance(sharding, jax.sharding.Sharding):
        return dict.fromkeys(abstract, sharding)
    if callable(sharding):
        return {path: sharding(path, leaf) for path, leaf in abstract.items()}
    given = traverse_util.flatten_dict(dict(sharding), sep="/")
    if given.keys() != abstract.keys():
        wrong = sorted(given.keys() ^ abstract.keys())
        raise UserError(
            f"The shardings do not fit the model: {', '.join(wrong[:6])} "
            f"{'is' if len(wrong) == 1 else 'are'} only in one of the two trees."
        )
    return given


def _lay_out(whole: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)


def _write_shards(folder, leaves, flat, family: str, shard_bytes: int) -> None:
    groups: list[list[tuple[names.Leaf, tuple[int, ...], str]]] = [[]]
    filled = total = 0
    for leaf in leaves.values():
        item = np.dtype(flat[leaf.path].dtype).itemsize
        size = int(np.prod(leaf.hub_shape)) * item
        for i, row in enumerate(leaf.tensors):
            for j, name in enumerate(row):
                if filled and filled + size > shard_bytes:
                    groups.append([])
                    filled = 0
                groups[-1].append((leaf, (i, j)[: leaf.stacked], name))
                filled += size
                total += size
    count = len(groups)
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else SINGLE
        tensors = {
            names.spell(tensor, family): names.to_hub(
                leaf, np.asarray(flat[leaf.path][place])
            )
            for leaf, place, tensor in group
        }
        write_tensors(folder / name, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    if count > 1:
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")
