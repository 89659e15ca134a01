"""Reads the sizes of a PaliGemma off its tensors, and describes them for the hub."""

import math
import re
from collections.abc import Mapping
from typing import Any

from jaxkd.convert.paligemma.names import TABLE, TEXT, VISION
from jaxkd.core.errors import UserError
from jaxkd.models.paligemma import GemmaConfig, PaliGemmaConfig, SiglipConfig


def infer(
    shapes: Mapping[str, tuple[int, ...]], described: Mapping[str, Any], origin: Any
) -> PaliGemmaConfig:
    """Reads a model's sizes from the shapes of its tensors.

    Args:
      shapes: canonical name -> shape.
      described: the content of ``config.json``, which alone knows the heads of the
        vision tower; empty if there is none.
      origin: for error messages.

    Raises:
      UserError: if the tensors are of another model, or sizes stay unknown.
    """
    vision, text = (described.get(f"{k}_config", {}) for k in ("vision", "text"))
    kind = text.get("model_type", "gemma")
    if kind != "gemma":
        raise UserError(
            f"{origin} is a PaliGemma with a decoder of kind {kind!r}. Expected "
            "'gemma': PaliGemma 2 and later are other networks."
        )

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = shapes.get(name)
        if found is None or len(found) != rank:
            raise UserError(
                f"{origin} holds no PaliGemma: {name} is "
                f"{'missing' if found is None else f'of shape {found}'}, expected "
                f"{rank} axes. Give a checkpoint in the hub's or big_vision's layout."
            )
        return found

    width, _, patch, _ = shape(f"{VISION}.embeddings.patch_embedding.weight", 4)
    (places, _) = shape(f"{VISION}.embeddings.position_embedding.weight", 2)
    layer = f"{TEXT}.layers.0"
    vocabulary, text_width = shape(TABLE, 2)
    queries = shape(f"{layer}.self_attn.q_proj.weight", 2)[0]
    keys = shape(f"{layer}.self_attn.k_proj.weight", 2)[0]
    kv_heads = text.get("num_key_value_heads", 1)
    head_dim = text.get("head_dim", keys // kv_heads)
    return PaliGemmaConfig(
        SiglipConfig(
            image_shape=image_shape(vision.get("image_size"), places, patch, origin),
            patch=patch,
            width=width,
            depth=_depth(shapes, f"{VISION}.encoder.layers"),
            heads=vision.get("num_attention_heads") or _vision_heads(width, origin),
            mlp=shape(f"{VISION}.encoder.layers.0.mlp.fc1.weight", 2)[0],
        ),
        GemmaConfig(
            width=text_width,
            depth=_depth(shapes, f"{TEXT}.layers"),
            mlp=shape(f"{layer}.mlp.gate_proj.weight", 2)[0],
            heads=queries // head_dim,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocabulary=vocabulary,
        ),
    )


def describe(config: PaliGemmaConfig) -> dict[str, Any]:
    """Makes the content of ``config.json`` for an exported model."""
    vision, text = config.vision, config.text
    height, width = vision.image_shape
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "hidden_size": text.width,
        "image_token_index": min(257152, text.vocabulary - 1),
        "projection_dim": text.width,
        "torch_dtype": config.dtype,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": vision.width,
            "image_size": height if height == width else [height, width],
            "intermediate_size": vision.mlp,
            "num_attention_heads": vision.heads,
            "num_hidden_layers": vision.depth,
            "num_image_tokens": vision.tokens,
            "patch_size": vision.patch,
            "projection_dim": text.width,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "gemma",
            "head_dim": text.head_dim,
            "hidden_size": text.width,
            "intermediate_size": text.mlp,
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.depth,
            "num_image_tokens": vision.tokens,
            "num_key_value_heads": text.kv_heads,
            "vocab_size": text.vocabulary,
        },
    }


def _depth(shapes: Mapping[str, Any], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return 1 + max(int(m[1]) for m in map(pattern.match, shapes) if m)


def _vision_heads(width: int, origin: Any) -> int:
    """Returns the heads of a known tower; its tensors' shapes do not show them."""
    from jaxkd.models.paligemma import PRESETS

    for known in PRESETS.values():
        if known.vision.width == width:
            return known.vision.heads
    raise UserError(
        f"{origin} does not show how many heads its vision tower of width {width} has. "
        "Put the model's config.json beside it."
    )


def image_shape(given: Any, places: int, patch: int, origin: Any) -> tuple[int, int]:
    """Returns height and width of the images that a number of positions stands for.

    Args:
      given: ``image_size`` of ``config.json``: a side, [height, width], or None.
      places: positions of the vision tower.
      patch: side of a patch.
      origin: for error messages.

    Raises:
      UserError: if they do not fit.
    """
    if isinstance(given, list | tuple):
        height, width = given
        shape = (int(height), int(width))
    else:
        side = math.isqrt(places) * patch
        shape = (side, side)
    if (shape[0] // patch) * (shape[1] // patch) != places:
        raise UserError(
            f"{origin} has {places} positions for patches of {patch} pixels, which "
            f"does not make an image of {shape}. For images that are not square, "
            "config.json needs vision_config.image_size as [height, width]."
        )
    return shape
