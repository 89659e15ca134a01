"""Xception: residual blocks of depthwise-separable convolutions.

Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions"
(arXiv:1610.02357), as face forgery detectors use it since FaceForensics++
(arXiv:1901.08971): 299 pixels a side, the first two convolutions without padding.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.conv import conv_general_dilated


class SeparableConv(nn.Module):
    """Filters each channel by itself over 3x3 pixels, then mixes the channels.

    Attributes:
      width: output channels.
      dtype: of the computation.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h, w, width]``."""
        channels = x.shape[-1]
        options = {"init": layers.TORCH_UNIFORM, "dtype": self.dtype}
        x = layers.conv(channels, 3, groups=channels, name="conv1", **options)(x)
        return layers.conv(self.width, 1, name="pointwise", **options)(x)


class Block(nn.Module):
    """Separable convolutions, each after a ReLU, with a shortcut around them.

    The layers are called ``rep_<place>`` after their place in the published sequence,
    in which the ReLUs and the pooling count.

    Attributes:
      widths: output channels of each separable convolution.
      train: whether batch normalisation uses (and updates) batch statistics.
      stride: of the pooling at the end and of the shortcut.
      first_relu: whether a ReLU comes before the first convolution.
      dtype: of the computation.
    """

    widths: Sequence[int]
    train: bool
    stride: int = 1
    first_relu: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / stride, w / stride, width]``."""
        y, place = x, 0
        for index, width in enumerate(self.widths):
            if index or self.first_relu:
                y, place = nn.relu(y), place + 1
            y = SeparableConv(width, self.dtype, name=f"rep_{place}")(y)
            norm = layers.BatchNorm(
                self.train, dtype=self.dtype, name=f"rep_{place + 1}"
            )
            y, place = norm(y), place + 2
        if self.stride > 1:
            strides = (self.stride, self.stride)
            y = nn.max_pool(y, (3, 3), strides, padding=((1, 1), (1, 1)))
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = layers.conv(
                y.shape[-1],
                1,
                self.stride,
                init=layers.TORCH_UNIFORM,
                dtype=self.dtype,
                name="skip",
            )(x)
            x = layers.BatchNorm(self.train, dtype=self.dtype, name="skipbn")(x)
        return x + y


class Xception(nn.Module):
    """Entry, middle and exit flow, a global mean and a linear head.

    In training with dropout, ``apply`` needs ``rngs={"dropout": key}``.

    Attributes:
      num_classes: number of logits.
      stem: channels of the first two convolutions.
      entry: channels of the blocks that halve the map; the last is also the width of
        the middle flow.
      middle: blocks of the middle flow.
      exit: channels after the last block, and of the two convolutions that follow.
      dropout: probability that the head misses a feature, in training.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    stem: tuple[int, int] = (32, 64)
    entry: Sequence[int] = (128, 256, 728)
    middle: int = 8
    exit: Sequence[int] = (1024, 1536, 2048)
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``; published weights expect 299
            pixels and values in [-1, 1].
          train: whether to drop features, and whether batch normalisation uses (and
            updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the features ``stem``,
          ``stage1`` ... (each flow's output before its map is halved, and the last)
          and ``pooled`` ``[batch, exit[-1]]``.

        Raises:
          ValueError: if the images are smaller than 7 pixels a side.
        """
        if min(images.shape[1:3]) < 7:
            raise ValueError(
                f"images have shape {images.shape}, expected at least 7 pixels a side: "
                "the first two convolutions are not padded."
            )
        x = images
        for index, width in enumerate(self.stem):
            x = nn.Conv(
                width,
                (3, 3),
                strides=1 if index else 2,
                padding=0,
                use_bias=False,
                kernel_init=layers.TORCH_UNIFORM,
                conv_general_dilated=conv_general_dilated,
                dtype=self.dtype,
                name=f"conv{index + 1}",
            )(x)
            x = nn.relu(self._norm(train, f"bn{index + 1}")(x))
        features = {"stem": x}
        for index, block in enumerate(self._blocks(train), start=1):
            if block.stride > 1 and index > 1:
                features[f"stage{len(features)}"] = x
            x = block(x)
        for index, width in enumerate(self.exit[1:], start=3):
            x = SeparableConv(width, self.dtype, name=f"conv{index}")(x)
            x = nn.relu(self._norm(train, f"bn{index}")(x))
        features[f"stage{len(features)}"] = x
        features["pooled"] = layers.global_mean(x)
        kept = nn.Dropout(self.dropout, deterministic=not train)(features["pooled"])
        return layers.Linear(self.num_classes, name="fc")(kept), features

    def _norm(self, train: bool, name: str) -> layers.BatchNorm:
        return layers.BatchNorm(train, dtype=self.dtype, name=name)

    def _blocks(self, train: bool) -> list[Block]:
        width = self.entry[-1]
        shapes: list[tuple[tuple[int, ...], int]]
        shapes = [((out, out), 2) for out in self.entry]
        shapes += [((width,) * 3, 1)] * self.middle + [((width, self.exit[0]), 2)]
        return [
            Block(widths, train, stride, index > 1, self.dtype, name=f"block{index}")
            for index, (widths, stride) in enumerate(shapes, start=1)
        ]


VARIANTS = {
    "xception": (Xception, {}),
    # For tests and small images.
    "xception_tiny": (
        Xception,
        {"stem": (8, 16), "entry": (16, 24), "middle": 1, "exit": (32, 48, 64)},
    ),
}
