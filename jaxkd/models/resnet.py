"""Residual networks, for small images and for photographs.

He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), as the
distillation literature uses them:

- ``resnet8`` ... ``resnet110``: section 4.2, depth ``6n + 2`` with three stages of
  ``n`` basic blocks; ``resnet8x4`` and ``resnet32x4`` are wider (arXiv:1910.10699).
- ``ResNet18`` ... ``ResNet152``: the four stages of section 4.1 behind a 3x3 stem, for
  small images.
- ``resnet18_imagenet`` ... ``resnet152_imagenet``: the same behind the stem of section
  4.1, for photographs of about 224 pixels; timm's and torchvision's names for them,
  ``resnet18`` ... ``resnet152``, are known too.
- ``resnet18d`` ... ``resnet152d``: timm's, with a stem of three 3x3 convolutions and
  shortcuts that average before they project (arXiv:1812.01187, "ResNet-D").

Deep blocks stride in their 3x3 convolution, as is usual since, not in the first 1x1.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum *before* its ReLU.

    The caller applies the ReLU, so that the value before it can be tapped.

    Attributes:
      width: channels.
      stride: of the first convolution.
      conv: makes convolutions.
      norm: makes batch normalisations.
      average: whether a strided shortcut averages 2x2 pixels before its convolution,
        instead of keeping one of four.
    """

    width: int
    stride: int
    conv: layers.Factory
    norm: layers.Factory
    average: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / stride, w / stride, width]``."""
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return y + _shortcut(x, y.shape[-1], self)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; returns the sum before its ReLU.

    Its output is four times as wide as ``width``; attributes as of ``BasicBlock``.
    """

    width: int
    stride: int
    conv: layers.Factory
    norm: layers.Factory
    average: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / stride, w / stride, 4 width]``."""
        y = self.conv(self.width, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(4 * self.width, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y)
        return y + _shortcut(x, y.shape[-1], self)


def _shortcut(x, width, block):
    stride = block.stride
    if stride == 1 and x.shape[-1] == width:
        return x
    if block.average and stride > 1:
        # Pixels beyond the edge of odd maps do not count.
        window = (stride, stride)
        x = nn.avg_pool(x, window, window, "SAME", count_include_pad=False)
    else:
        x = layers.subsample(x, stride)
    x = block.conv(width, 1, name="shortcut_conv")(x)
    return block.norm(name="shortcut_bn")(x)


class ResNet(nn.Module):
    """A residual network.

    Attributes:
      num_classes: number of logits.
      blocks: blocks of each stage, or one number for all.
      stem: channels of the first convolution.
      widths: of the blocks of each stage.
      strides: stride of each stage's first block.
      block: ``BasicBlock`` or ``BottleneckBlock``.
      photographs: whether to start with a 7x7 convolution of stride 2 and a max-pool
        of stride 2, instead of a 3x3 convolution.
      deep_stem: of photographs: whether three 3x3 convolutions, the first two of half
        the stem's channels, replace the 7x7 one, and shortcuts average.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    blocks: int | Sequence[int]
    stem: int
    widths: Sequence[int]
    strides: Sequence[int] = (1, 2, 2)
    block: type[nn.Module] = BasicBlock
    photographs: bool = False
    deep_stem: bool = False
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @property
    def preact_norms(self) -> dict[str, tuple[str, ...]]:
        """Where among the parameters the norm before each ``stage1_preact`` ... is.

        Of the sum that is tapped, it is the norm of the branch, not of the shortcut.
        """
        counts = _per_stage(self.blocks, self.widths)
        norm = "bn3" if self.block is BottleneckBlock else "bn2"
        return {
            f"stage{stage}": (f"stage{stage}_block{count - 1}", norm)
            for stage, count in enumerate(counts, start=1)
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
          Logits ``[batch, num_classes]`` in float32, and the features ``stem`` (before
          the max-pool, if there is one), ``stage1`` ... (after their ReLU),
          ``stage1_preact`` ... (the sums before it) and ``pooled``
          ``[batch, channels]``.
        """
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        if self.deep_stem:
            x = conv(self.stem // 2, 3, 2, name="conv1_0")(images)
            x = nn.relu(norm(name="bn1_0")(x))
            x = conv(self.stem // 2, 3, name="conv1_1")(x)
            x = nn.relu(norm(name="bn1_1")(x))
            x = conv(self.stem, 3, name="conv1_2")(x)
        else:
            size, stride = (7, 2) if self.photographs else (3, 1)
            x = conv(self.stem, size, stride, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x))
        features = {"stem": x}
        if self.photographs:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        counts = _per_stage(self.blocks, self.widths)
        stages = zip(counts, self.widths, self.strides, strict=True)
        for stage, (count, width, stride) in enumerate(stages, start=1):
            preact = x
            for index in range(count):
                name = f"stage{stage}_block{index}"
                first = stride if index == 0 else 1
                block = self.block(width, first, conv, norm, self.deep_stem, name=name)
                preact = block(x)
                x = nn.relu(preact)
            features[f"stage{stage}_preact"] = preact
            features[f"stage{stage}"] = x
        features["pooled"] = layers.global_mean(x)
        logits = layers.Linear(self.num_classes, name="fc")(features["pooled"])
        return logits, features


def _per_stage(blocks: int | Sequence[int], widths: Sequence[int]) -> Sequence[int]:
    return (blocks,) * len(widths) if isinstance(blocks, int) else blocks


_NARROW: dict[str, Any] = {"stem": 16, "widths": (16, 32, 64)}
_WIDE: dict[str, Any] = {"stem": 32, "widths": (64, 128, 256)}
_DEEP: dict[str, Any] = {
    "stem": 64,
    "widths": (64, 128, 256, 512),
    "strides": (1, 2, 2, 2),
}

_DEPTHS: dict[int, dict[str, Any]] = {
    18: {"blocks": (2, 2, 2, 2)},
    34: {"blocks": (3, 4, 6, 3)},
    50: {"blocks": (3, 4, 6, 3), "block": BottleneckBlock},
    101: {"blocks": (3, 4, 23, 3), "block": BottleneckBlock},
    152: {"blocks": (3, 8, 36, 3), "block": BottleneckBlock},
}

VARIANTS = {
    **{
        f"resnet{6 * n + 2}": (ResNet, {"blocks": n, **_NARROW})
        for n in (1, 2, 3, 5, 7, 9, 18)
    },
    "resnet8x4": (ResNet, {"blocks": 1, **_WIDE}),
    "resnet32x4": (ResNet, {"blocks": 5, **_WIDE}),
    **{
        f"ResNet{depth}": (ResNet, {**_DEEP, **options})
        for depth, options in _DEPTHS.items()
    },
    **{
        f"resnet{depth}{suffix}": (ResNet, {**_DEEP, **options, "photographs": True})
        for depth, options in _DEPTHS.items()
        for suffix in ("_imagenet", "")
    },
    **{
        f"resnet{depth}d": (
            ResNet,
            {**_DEEP, **options, "photographs": True, "deep_stem": True},
        )
        for depth, options in _DEPTHS.items()
    },
}
