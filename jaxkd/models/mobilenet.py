"""MobileNets: ``MobileNetV2`` for small images, ``MobileNetV1`` for photographs.

``MobileNetV2`` is the network of Sandler et al. (arXiv:1801.04381) at half width and
with gentler strides, as the distillation literature uses it (arXiv:1910.10699).
``MobileNetV1`` is that of Howard et al. (arXiv:1704.04861), the student of ImageNet
recipes.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


class InvertedResidual(nn.Module):
    """Expands, filters each channel by itself, and projects; the output is linear.

    Attributes:
      width: output channels.
      stride: of the depthwise convolution.
      expansion: inner channels per input channel.
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    width: int
    stride: int
    expansion: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / stride, w / stride, width]``."""
        inner = self.expansion * x.shape[-1]
        y = self.conv(inner, 1, name="expand_conv")(x)
        y = nn.relu(self.norm(name="expand_bn")(y))
        y = self.conv(inner, 3, self.stride, groups=inner, name="depthwise_conv")(y)
        y = nn.relu(self.norm(name="depthwise_bn")(y))
        y = self.conv(self.width, 1, name="project_conv")(y)
        y = self.norm(name="project_bn")(y)
        return x + y if self.stride == 1 and x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2 with ReLU in place of ReLU6.

    Attributes:
      num_classes: number of logits.
      stem: channels of the first convolution.
      groups: (expansion, width, number of blocks, stride of the first) of each group
        of blocks.
      head: channels of the last convolution.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    stem: int = 16
    groups: Sequence[tuple[int, int, int, int]] = (
        (1, 8, 1, 1),
        (6, 12, 2, 1),
        (6, 16, 3, 2),
        (6, 32, 4, 2),
        (6, 48, 3, 1),
        (6, 80, 3, 2),
        (6, 160, 1, 1),
    )
    head: int = 1280
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @property
    def preact_norms(self) -> dict[str, tuple[str, ...]]:
        """Where among the parameters the norm before each ``stage1_preact`` ... is.

        Of a sum that is tapped, it is the norm of the branch.
        """
        norms: list[tuple[str, ...]] = []
        last: tuple[str, ...] = ("bn1",)
        for group, (_, _, count, stride) in enumerate(self.groups):
            if stride == 2:  # what came before was the last at its size
                norms.append(last)
            last = (f"group{group}_block{count - 1}", "project_bn")
        return {f"stage{i}": path for i, path in enumerate([*norms, last], start=1)}

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
          of the image), ``stage1_preact`` ... (the same: these outputs have no ReLU)
          and ``pooled`` ``[batch, head]``.
        """
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        x = conv(self.stem, 3, 2, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x))
        features = {"stem": x}
        stage = 0
        for group, (expansion, width, count, stride) in enumerate(self.groups):
            if stride == 2:  # what came before was the last at its size
                stage += 1
                features[f"stage{stage}"] = features[f"stage{stage}_preact"] = x
            for index in range(count):
                x = InvertedResidual(
                    width,
                    stride if index == 0 else 1,
                    expansion,
                    conv,
                    norm,
                    name=f"group{group}_block{index}",
                )(x)
        stage += 1
        features[f"stage{stage}"] = features[f"stage{stage}_preact"] = x
        x = conv(self.head, 1, name="conv2")(x)
        x = nn.relu(norm(name="bn2")(x))
        features["pooled"] = layers.global_mean(x)
        head = layers.Linear(
            self.num_classes, kernel_std=0.01, zero_bias=True, name="fc"
        )
        return head(features["pooled"]), features


class MobileNetV1(nn.Module):
    """A first convolution and 13 pairs of a depthwise and a 1x1 convolution.

    Attributes:
      num_classes: number of logits.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @property
    def preact_norms(self) -> dict[str, tuple[str, ...]]:
        """Where among the parameters the norm before each ``stage1_preact`` ... is."""
        return {
            f"stage{stage}": (f"unit{unit}_pointwise_bn",)
            for stage, unit in enumerate(_TAPPED_UNITS, start=1)
        }

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
          ``stage1`` ... ``stage4`` (the last outputs at a quarter, eighth, sixteenth
          and thirty-second of the image's size), ``stage1_preact`` ... (before their
          ReLU) and ``pooled`` ``[batch, 1024]``.
        """
        conv, norm = layers.factories(
            train, self.unbiased_variance, self.dtype, layers.TORCH_UNIFORM
        )
        x = conv(32, 3, 2, name="unit0_conv")(images)
        x = nn.relu(norm(name="unit0_bn")(x))
        features = {"stem": x}
        for unit, (width, stride) in enumerate(_UNITS, start=1):
            inner, name = x.shape[-1], f"unit{unit}"
            x = conv(inner, 3, stride, groups=inner, name=f"{name}_depthwise_conv")(x)
            x = nn.relu(norm(name=f"{name}_depthwise_bn")(x))
            x = conv(width, 1, name=f"{name}_pointwise_conv")(x)
            preact = norm(name=f"{name}_pointwise_bn")(x)
            x = nn.relu(preact)
            if unit in _TAPPED_UNITS:
                stage = f"stage{_TAPPED_UNITS.index(unit) + 1}"
                features |= {f"{stage}_preact": preact, stage: x}
        features["pooled"] = layers.global_mean(x)
        logits = layers.Linear(self.num_classes, name="fc")(features["pooled"])
        return logits, features


# Width, stride.
_UNITS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
_TAPPED_UNITS = (3, 5, 11, 13)

VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "MobileNetV2": (MobileNetV2, {}),
    "MobileNetV1": (MobileNetV1, {}),
}
