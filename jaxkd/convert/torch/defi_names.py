"""What the official checkpoints of DeFI-Net and of HRNet call their variables."""

import re
from collections.abc import Callable

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

_PART = {"conv": 0, "bn": 1, "up": 2}


def _transition(match: re.Match) -> str:
    stage, branch, part = int(match[1]), int(match[2]), _PART[match[3]]
    # A new branch is a sequence of sequences, of which there is one.
    inner = ".0" if branch == stage else ""
    return f"transition{stage}.{branch}{inner}.{part}"


def _level(prefix: str, shift: int = 0) -> Callable[[re.Match], str]:
    """Names a block of a pyramid; the coarse-to-fine half counts from the coarsest."""

    def name(match: re.Match) -> str:
        level = int(match[1])
        place = 4 - level if "td_fusion" in prefix else level - 1
        return f"{prefix}.blocks.{place}.{_PART[match[2]] + shift}"

    return name


RULES: Rules = (
    (r"^hrnet/layer1_block(\d+)", r"hrnet/layer1.\1"),
    ("shortcut_conv", "downsample.0"),
    ("shortcut_bn", "downsample.1"),
    (r"transition(\d)_branch(\d)_(conv|bn)", _transition),
    (r"^hrnet/stage(\d)_module(\d+)", r"hrnet/stage\1.\2"),
    (r"branch(\d)_block(\d+)", r"branches.\1.\2"),
    (r"fuse(\d)_(\d)_conv(\d)", r"fuse_layers.\1.\2.\3.0"),
    (r"fuse(\d)_(\d)_bn(\d)", r"fuse_layers.\1.\2.\3.1"),
    (r"fuse(\d)_(\d)_conv$", r"fuse_layers.\1.\2.0"),
    (r"fuse(\d)_(\d)_bn$", r"fuse_layers.\1.\2.1"),
    (r"^dfpl/reduce(\d)$", r"gfpn.td_fusion.conv1x1_dict.10\1"),
    (
        r"^dfpl/down(\d)$",
        lambda match: f"gfpn.td_fusion.conv1x1_dict.{5 - int(match[1])}",
    ),
    (r"^dfpl/up(\d)$", r"gfpn.bu_fusion.conv1x1_dict.\1"),
    (r"^dfpl/down_block(\d)_(conv|bn)$", _level("gfpn.td_fusion")),
    (r"^dfpl/up_block(\d)_(conv|bn)$", _level("gfpn.bu_fusion")),
    (r"^dfpl/out(\d)$", lambda match: f"gfpn.blocks.{int(match[1]) - 1}.0"),
    (r"^dfpl/out_block(\d)_(conv|bn)$", _level("gfpn", shift=1)),
    (r"^ream/conv_", "ream.conv3x3_"),
    (r"^ream/attention$", "ream.conv1"),
    (r"^ream/edge_", "ream.edge_head."),
    (
        r"^saff/(low_mid|high)_(conv|bn|up)$",
        lambda match: f"dff.{match[1]}.{_PART[match[2]]}",
    ),
    (r"^saff/prior_(conv|bn|up)$", lambda match: f"dff.high_prior.{_PART[match[1]]}"),
    (
        r"^saff/weights(\d)_(conv|bn)$",
        lambda match: f"dff.ada_learner.conv{match[1]}.{_PART[match[2]]}",
    ),
    (r"^saff/head$", "dff.seghead"),
)
