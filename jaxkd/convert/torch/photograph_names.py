"""What timm and torchvision call the variables of the networks for photographs.

Transformers, ConvNeXts and EfficientNets have other names in each of the two; residual
networks have the same in both.
"""

import re
from collections.abc import Callable

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]


def _stage(pattern: str, factor: int = 1, shift: int = -1) -> Callable:
    """Returns a replacement in which ``{}`` is ``factor * stage + shift``."""

    def name(match: re.Match) -> str:
        return match.expand(pattern.replace("{}", str(factor * int(match[1]) + shift)))

    return name


RESNET_D: Rules = (
    (r"^conv1_(\d)$", lambda match: f"conv1.{3 * int(match[1])}"),
    (r"^bn1_(\d)$", lambda match: f"conv1.{3 * int(match[1]) + 1}"),
    (r"^stage(\d+)_block(\d+)", r"layer\1.\2"),
    # Before both stands what averages.
    ("shortcut_conv", "downsample.1"),
    ("shortcut_bn", "downsample.2"),
)

VIT_TIMM: Rules = (
    ("^patch_embedding$", "patch_embed.proj"),
    ("^class_token$", "cls_token"),
    ("^distillation_token$", "dist_token"),
    ("^positions$", "pos_embed"),
    (r"^block(\d+)", r"blocks.\1"),
    ("attention/(query|key|value)$", "attn.qkv"),
    ("attention/out$", "attn.proj"),
    ("feed_forward/in$", "mlp.fc1"),
    ("feed_forward/out$", "mlp.fc2"),
    ("^fc$", "head"),
    ("^fc_distillation$", "head_dist"),
)
VIT_TORCHVISION: Rules = (
    ("^patch_embedding$", "conv_proj"),
    ("^positions$", "encoder.pos_embedding"),
    (r"^block(\d+)", r"encoder.layers.encoder_layer_\1"),
    (r"/norm(\d)$", r"/ln_\1"),
    ("^norm$", "encoder.ln"),
    ("/attention/(query|key|value)$", "/self_attention.in_proj_"),
    ("/attention/out$", "/self_attention.out_proj"),
    ("feed_forward/in$", "mlp.0"),
    ("feed_forward/out$", "mlp.3"),
    ("^fc$", "heads.head"),
)

CONVNEXT_TIMM: Rules = (
    ("^stem_conv$", "stem.0"),
    ("^stem_norm$", "stem.1"),
    (r"^stage(\d+)_downsample_norm$", _stage("stages.{}.downsample.0")),
    (r"^stage(\d+)_downsample_conv$", _stage("stages.{}.downsample.1")),
    (r"^stage(\d+)_block(\d+)", _stage(r"stages.{}.blocks.\2")),
    ("/depthwise_conv$", ".conv_dw"),
    ("/in$", ".mlp.fc1"),
    ("/out$", ".mlp.fc2"),
    ("/layer_scale$", ".gamma"),
    ("^head_norm$", "head.norm"),
    ("^fc$", "head.fc"),
)
CONVNEXT_TORCHVISION: Rules = (
    ("^stem_conv$", "features.0.0"),
    ("^stem_norm$", "features.0.1"),
    (r"^stage(\d+)_downsample_norm$", _stage("features.{}.0", 2, -2)),
    (r"^stage(\d+)_downsample_conv$", _stage("features.{}.1", 2, -2)),
    (r"^stage(\d+)_block(\d+)", _stage(r"features.{}.\2", 2, -1)),
    ("/depthwise_conv$", ".block.0"),
    ("/norm$", ".block.2"),
    ("/in$", ".block.3"),
    ("/out$", ".block.5"),
    ("^head_norm$", "classifier.0"),
    ("^fc$", "classifier.2"),
)

# Blocks of the first group do not expand, so that their layers count from another one.
_FIRST_TIMM = {"depthwise_bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2"}
_OTHERS_TIMM = {
    "expand_conv": "conv_pw",
    "expand_bn": "bn1",
    "depthwise_bn": "bn2",
    "project_conv": "conv_pwl",
    "project_bn": "bn3",
}
_ALL_TIMM = {
    "depthwise_conv": "conv_dw",
    "se_reduce": "se.conv_reduce",
    "se_expand": "se.conv_expand",
}


def _block_timm(match: re.Match) -> str:
    group, index, layer = match.groups()
    own = _FIRST_TIMM if group == "0" else _OTHERS_TIMM
    return f"blocks.{group}.{index}.{(own | _ALL_TIMM)[layer]}"


def _block_torchvision(match: re.Match) -> str:
    group, index, layer = match.groups()
    place = ("expand", "depthwise", "se", "project").index(layer.split("_")[0])
    part = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}
    return (
        f"features.{int(group) + 1}.{index}.block.{place - (group == '0')}."
        f"{part[layer.split('_')[1]]}"
    )


_BLOCK = r"^group(\d+)_block(\d+)/(\w+)$"
EFFICIENTNET_TIMM: Rules = (
    (_BLOCK, _block_timm),
    ("^bn_stem$", "bn1"),
    ("^bn_head$", "bn2"),
    ("^fc$", "classifier"),
)
EFFICIENTNET_TORCHVISION: Rules = (
    (_BLOCK, _block_torchvision),
    ("^conv_stem$", "features.0.0"),
    ("^bn_stem$", "features.0.1"),
    ("^conv_head$", "features.8.0"),
    ("^bn_head$", "features.8.1"),
    ("^fc$", "classifier.1"),
)
