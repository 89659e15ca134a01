"""EfficientNet-B0 to B2, by timm's and torchvision's names.

Tan and Le, "EfficientNet" (arXiv:1905.11946): inverted residuals with squeeze and
excitation, scaled in width and depth together. Padding is symmetric and the norms'
epsilon 1e-5, as in the networks of that name in timm and torchvision; timm's ``tf_``
ones, which pad one side and have another epsilon, are others. Stochastic depth and
dropout, with which they are trained from nothing, are left out.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


class Block(nn.Module):
    """Expands, filters each channel by itself, weighs the channels, and projects.

    Attributes:
      width: output channels.
      stride: of the depthwise convolution.
      size: of its kernel.
      expansion: inner channels per input channel; 1 leaves the first convolution out.
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    width: int
    stride: int
    size: int
    expansion: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / stride, w / stride, width]``."""
        inner = self.expansion * x.shape[-1]
        y = x
        if self.expansion > 1:
            y = self.conv(inner, 1, name="expand_conv")(y)
            y = nn.silu(self.norm(name="expand_bn")(y))
        depthwise = self.conv(
            inner, self.size, self.stride, groups=inner, name="depthwise_conv"
        )
        y = nn.silu(self.norm(name="depthwise_bn")(depthwise(y)))
        # Squeeze and excitation; its hidden layer is a quarter of the block's input.
        weight = jnp.mean(y, axis=(1, 2), keepdims=True)
        hidden = max(1, round(x.shape[-1] / 4))
        weight = self.conv(hidden, 1, use_bias=True, name="se_reduce")(weight)
        weight = self.conv(inner, 1, use_bias=True, name="se_expand")(nn.silu(weight))
        y = self.conv(self.width, 1, name="project_conv")(y * nn.sigmoid(weight))
        y = self.norm(name="project_bn")(y)
        return x + y if self.stride == 1 and x.shape == y.shape else y


class EfficientNet(nn.Module):
    """An EfficientNet.

    Attributes:
      num_classes: number of logits.
      stem: channels of the first convolution.
      groups: (expansion, width, number of blocks, stride of the first, kernel size) of
        each group of blocks.
      head: channels of the last convolution.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    stem: int
    groups: Sequence[tuple[int, int, int, int, int]]
    head: int
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @property
    def preact_norms(self) -> dict[str, tuple[str, ...]]:
        """Where among the parameters the norm before each ``stage1_preact`` ... is.

        Of a sum that is tapped, it is the norm of the branch.
        """
        return {
            f"stage{stage}": (f"group{g}_block{self.groups[g][2] - 1}", "project_bn")
            for stage, g in enumerate(self._tapped(), start=1)
        }

    def _tapped(self) -> list[int]:
        """Returns the groups whose output is the last at its size."""
        last = len(self.groups) - 1
        ends = [g for g in range(last) if self.groups[g + 1][3] == 2]
        return [*ends, last]

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch normalisation uses (and updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the features ``stem``,
          ``stage1`` ... (the last block's output at each size: a half, a quarter, ...
          of the image), ``stage1_preact`` ... (the same: no activation follows) and
          ``pooled`` ``[batch, head]``.
        """
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        x = conv(self.stem, 3, 2, name="conv_stem")(images)
        x = nn.silu(norm(name="bn_stem")(x))
        features = {"stem": x}
        tapped = self._tapped()
        for group, (expansion, width, count, stride, size) in enumerate(self.groups):
            for index in range(count):
                x = Block(
                    width,
                    stride if index == 0 else 1,
                    size,
                    expansion,
                    conv,
                    norm,
                    name=f"group{group}_block{index}",
                )(x)
            if group in tapped:
                stage = f"stage{tapped.index(group) + 1}"
                features |= {stage: x, f"{stage}_preact": x}
        x = conv(self.head, 1, name="conv_head")(x)
        x = nn.silu(norm(name="bn_head")(x))
        features["pooled"] = layers.global_mean(x)
        logits = layers.Linear(self.num_classes, name="fc")(features["pooled"])
        return logits, features


# Expansion, width, blocks, stride and kernel size of B0.
_GROUPS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _channels(width: float) -> int:
    """Rounds to a multiple of 8 that is at most a tenth smaller."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


def _scaled(width: float, depth: float) -> dict[str, Any]:
    return {
        "stem": _channels(32 * width),
        "groups": tuple(
            (expansion, _channels(channels * width), math.ceil(count * depth), *rest)
            for expansion, channels, count, *rest in _GROUPS
        ),
        "head": _channels(1280 * width),
    }


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "efficientnet_b0": (EfficientNet, _scaled(1.0, 1.0)),
    "efficientnet_b1": (EfficientNet, _scaled(1.0, 1.1)),
    "efficientnet_b2": (EfficientNet, _scaled(1.1, 1.2)),
}
