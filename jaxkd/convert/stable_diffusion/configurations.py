"""Modules from the config.json of published pipelines, and the same files back.

A setting that would change the network and is not known here is refused, not ignored.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from jaxkd.core import options
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import POSITIVE, Items, Range
from jaxkd.models.stable_diffusion import (
    Autoencoder,
    ClipImageEncoder,
    ClipTextEncoder,
    UNet,
)

Config = Mapping[str, Any]

_CROSS, _PLAIN = "CrossAttn", ""
# Setting -> its only value that is supported; absent settings have it.
_UNET_FIXED: Config = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
# Of newer networks; they are checked, but not written, since older readers do not
# know them.
_UNET_NEWER: Config = {
    "attention_type": "default",
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "timestep_post_act": None,
}
_VAE_FIXED: Config = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
_CLIP_FIXED: Config = {"layer_norm_eps": 1e-5, "attention_dropout": 0.0}
_SCHEDULER_FIXED: Config = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "rescale_betas_zero_snr": False,
    "trained_betas": None,
}
# Setting -> what it must be, where it is given.
_COUNT = Annotated[int, Range(1)]
_COUNTS = Annotated[Sequence[int], Range(1), Items()]
_UNET_TYPES: Config = {
    **dict.fromkeys(("in_channels", "out_channels", "layers_per_block"), _COUNT),
    **dict.fromkeys(("cross_attention_dim", "norm_num_groups"), _COUNT),
    "transformer_layers_per_block": _COUNT,
    "block_out_channels": _COUNTS,
    "down_block_types": Sequence[str],
    "up_block_types": Sequence[str],
    "attention_head_dim": _COUNT | _COUNTS,
    "num_attention_heads": _COUNT | _COUNTS | None,
    "time_cond_proj_dim": _COUNT | None,
    "use_linear_projection": bool,
}
_VAE_TYPES: Config = {
    **dict.fromkeys(("in_channels", "latent_channels", "layers_per_block"), _COUNT),
    "norm_num_groups": _COUNT,
    "block_out_channels": _COUNTS,
    "down_block_types": Sequence[str] | None,
    "up_block_types": Sequence[str] | None,
    "scaling_factor": Annotated[float, POSITIVE] | None,
}
_CLIP_TYPES: Config = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), _COUNT),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), _COUNT),
    **dict.fromkeys(("max_position_embeddings", "projection_dim"), _COUNT),
    **dict.fromkeys(("image_size", "patch_size"), _COUNT),
    "eos_token_id": Annotated[int, Range()],
    "hidden_act": str,
}


def unet(config: Config, origin: Any, dtype: Any) -> UNet:
    """Builds the UNet of ``unet/config.json``.

    ``attention_head_dim`` there is the number of heads, unless
    ``num_attention_heads`` is given.

    Raises:
      UserError: for a network of another kind, such as Stable Diffusion XL's.
    """
    _check(config, {**_UNET_FIXED, **_UNET_NEWER}, _UNET_TYPES, origin)
    widths = tuple(_required(config, "block_out_channels", origin))
    down = config.get("down_block_types", ())
    up = config.get("up_block_types", ())
    attention = tuple(kind == "CrossAttnDownBlock2D" for kind in down)
    expected = (
        tuple(f"{_CROSS if a else _PLAIN}DownBlock2D" for a in attention),
        tuple(f"{_CROSS if a else _PLAIN}UpBlock2D" for a in reversed(attention)),
    )
    if len(down) != len(widths) or (tuple(down), tuple(up)) != expected:
        raise UserError(
            f"{origin}: blocks {list(down)} down and {list(up)} up. Expected "
            f"{len(widths)} of CrossAttnDownBlock2D or DownBlock2D, and their mirror "
            "image up: the UNet of Stable Diffusion 1.x or 2.x."
        )
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    heads = _per_level(heads, len(widths), origin)
    groups = config.get("norm_num_groups", 32)
    _check_parts(widths, groups, "norm_num_groups", origin)
    # Also where a level has no attention: the last level's heads are the middle's.
    for width, number in zip(widths, heads, strict=True):
        _check_parts(
            (width,), number, "attention_head_dim, the number of heads", origin
        )
    return UNet(
        in_channels=config.get("in_channels", 4),
        out_channels=config.get("out_channels", 4),
        widths=widths,
        layers_per_block=config.get("layers_per_block", 2),
        attention=attention,
        heads=heads,
        context_width=_required(config, "cross_attention_dim", origin),
        linear_projection=bool(config.get("use_linear_projection", False)),
        depth=config.get("transformer_layers_per_block", 1),
        groups=groups,
        guidance_width=config.get("time_cond_proj_dim"),
        dtype=dtype,
    )


def of_unet(module: UNet) -> dict[str, Any]:
    """Returns the ``unet/config.json`` of a module."""
    down = [f"{_CROSS if a else _PLAIN}DownBlock2D" for a in module.attention]
    up = [f"{_CROSS if a else _PLAIN}UpBlock2D" for a in reversed(module.attention)]
    heads = module.heads
    return {
        **_UNET_FIXED,
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else list(heads),
        "block_out_channels": list(module.widths),
        "cross_attention_dim": module.context_width,
        "down_block_types": down,
        "in_channels": module.in_channels,
        "layers_per_block": module.layers_per_block,
        "norm_num_groups": module.groups,
        "num_attention_heads": None,
        "out_channels": module.out_channels,
        "sample_size": 64,
        "time_cond_proj_dim": module.guidance_width,
        "transformer_layers_per_block": module.depth,
        "up_block_types": up,
        "use_linear_projection": module.linear_projection,
    }


def vae(config: Config, origin: Any, dtype: Any) -> Autoencoder:
    """Builds the autoencoder of ``vae/config.json``.

    Raises:
      UserError: for one of another kind.
    """
    _check(config, _VAE_FIXED, _VAE_TYPES, origin)
    widths = tuple(_required(config, "block_out_channels", origin))
    groups = config.get("norm_num_groups", 32)
    _check_parts(widths, groups, "norm_num_groups", origin)
    for name, kind in (("down", "DownEncoder"), ("up", "UpDecoder")):
        kinds = config.get(f"{name}_block_types")
        if kinds is not None and set(kinds) != {f"{kind}Block2D"}:
            raise UserError(
                f"{origin}: {name}_block_types {kinds}. Expected {kind}Block2D only: "
                "the autoencoder of Stable Diffusion."
            )
    return Autoencoder(
        channels=config.get("in_channels", 3),
        latent_channels=config.get("latent_channels", 4),
        widths=widths,
        layers_per_block=config.get("layers_per_block", 2),
        groups=groups,
        scaling_factor=config.get("scaling_factor") or 0.18215,
        dtype=dtype,
    )


def of_vae(module: Autoencoder) -> dict[str, Any]:
    """Returns the ``vae/config.json`` of a module."""
    levels = len(module.widths)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(module.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": module.channels,
        "latent_channels": module.latent_channels,
        "layers_per_block": module.layers_per_block,
        "norm_num_groups": module.groups,
        "out_channels": module.channels,
        "scaling_factor": module.scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text(
    config: Config, origin: Any, dtype: Any, *, projection: bool = False
) -> ClipTextEncoder:
    """Builds the text tower of ``text_encoder/config.json``.

    Args:
      config: the content.
      origin: the file, for error messages.
      dtype: of the computation.
      projection: whether the checkpoint has a projection.

    Raises:
      UserError: for a tower of another kind, or an activation that is not known.
    """
    fixed = {**_CLIP_FIXED, "model_type": "clip_text_model"}
    _check(config, fixed, _CLIP_TYPES, origin)
    width, heads = config.get("hidden_size", 512), config.get("num_attention_heads", 8)
    _check_parts((width,), heads, "num_attention_heads", origin)
    return ClipTextEncoder(
        vocab_size=config.get("vocab_size", 49408),
        positions=config.get("max_position_embeddings", 77),
        width=width,
        layers=config.get("num_hidden_layers", 12),
        heads=heads,
        mlp_width=config.get("intermediate_size", 2048),
        activation=_activation(config, origin),
        eos_id=config.get("eos_token_id", 2),
        projection_width=config.get("projection_dim", 512) if projection else None,
        dtype=dtype,
    )


def of_text(module: ClipTextEncoder) -> dict[str, Any]:
    """Returns the ``text_encoder/config.json`` of a module.

    Raises:
      UserError: for a tower without causal mask, which the format cannot name.
    """
    if not module.causal:
        raise UserError(
            "A text tower without causal mask cannot be written as CLIP's. Train one "
            "with causal=True."
        )
    kind = "CLIPTextModelWithProjection" if module.projection_width else "CLIPTextModel"
    return {
        "architectures": [kind],
        "bos_token_id": 0,
        "eos_token_id": module.eos_id,
        "hidden_act": module.activation,
        "hidden_size": module.width,
        "intermediate_size": module.mlp_width,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": module.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": module.heads,
        "num_hidden_layers": module.layers,
        "projection_dim": module.projection_width or module.width,
        "vocab_size": module.vocab_size,
    }


def image(config: Config, origin: Any, dtype: Any, projection: int) -> ClipImageEncoder:
    """Builds the image tower of the ``vision_config`` of CLIP's ``config.json``.

    Raises:
      UserError: for a tower of another kind, or an activation that is not known.
    """
    fixed = {**_CLIP_FIXED, "model_type": "clip_vision_model"}
    _check(config, fixed, _CLIP_TYPES, origin)
    width, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    _check_parts((width,), heads, "num_attention_heads", origin)
    return ClipImageEncoder(
        image_size=config.get("image_size", 224),
        patch_size=config.get("patch_size", 32),
        width=width,
        layers=config.get("num_hidden_layers", 12),
        heads=heads,
        mlp_width=config.get("intermediate_size", 3072),
        activation=_activation(config, origin),
        projection_width=projection,
        dtype=dtype,
    )


def _activation(config: Config, origin: Any) -> str:
    name = config.get("hidden_act", "quick_gelu")
    if name not in ("quick_gelu", "gelu"):
        raise UserError(
            f"{origin}: the activation is {name!r}. Expected 'quick_gelu' or 'gelu'."
        )
    return name


def _required(config: Config, name: str, origin: Any) -> Any:
    if config.get(name) is None:
        raise UserError(
            f"{origin} does not give {name}. Copy the configuration that belongs to "
            "the weights."
        )
    return config[name]


def check_scheduler(config: Config, origin: Any) -> None:
    """Checks that ``scheduler_config.json`` has the noise of Stable Diffusion.

    Samplers here have their own settings, but the noise is that of the training.

    Raises:
      UserError: for other noise, which every sampler here would get wrong.
    """
    wrong = _differences(config, _SCHEDULER_FIXED)
    if wrong:
        raise UserError(
            f"{origin} is of noise that is not supported: {', '.join(wrong)}. Expected "
            "that of Stable Diffusion 1.x or 2.x."
        )


def _check(config: Config, fixed: Config, types: Config, origin: Any) -> None:
    wrong = _differences(config, fixed)
    if wrong:
        raise UserError(
            f"{origin} is of a network that is not supported: {', '.join(wrong)}. "
            "Expected Stable Diffusion 1.x or 2.x."
        )
    for name, kind in types.items():
        # Of what is required, null has an error of its own.
        if name in config and (name, config[name]) not in _NULLS:
            options.check_type(config[name], kind, f"{origin}: {name}")


_NULLS = (("block_out_channels", None), ("cross_attention_dim", None))


def _differences(config: Config, fixed: Config) -> list[str]:
    return [
        f"{name}={config[name]!r} (expected {value!r})"
        for name, value in fixed.items()
        if name in config and config[name] != value
    ]


def _check_parts(widths: Sequence[int], parts: int, name: str, origin: Any) -> None:
    """Checks that the channels of every level can be parted equally."""
    if any(width % parts for width in widths):
        raise UserError(
            f"{origin}: {name} is {parts}, which does not divide "
            f"{', '.join(map(str, widths))} channels. Copy the configuration that "
            "belongs to the weights."
        )


def _per_level(heads: Any, levels: int, origin: Any) -> tuple[int, ...]:
    found = (heads,) * levels if isinstance(heads, int) else tuple(heads)
    if len(found) != levels:
        raise UserError(
            f"{origin}: heads are given for {len(found)} levels: {list(found)}. "
            f"Expected one number, or one for each of {levels} levels."
        )
    return found
