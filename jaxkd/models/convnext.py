"""ConvNeXt: a convolutional network with the proportions of a transformer.

Liu et al., "A ConvNet for the 2020s" (arXiv:2201.03545): patches of 4x4 pixels, then
four stages of blocks of a 7x7 depthwise convolution and a feed-forward network, with
layer norms throughout. Names are timm's and torchvision's: ``convnext_tiny`` ...
``convnext_large``. Stochastic depth, with which they are trained from nothing, is left
out: these are teachers that exist, and students that are fine-tuned.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

EPSILON = 1e-6
_INIT = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """A depthwise 7x7 convolution and a feed-forward network, added to the input.

    Attributes:
      ratio: width of the hidden layer over that of the input.
      dtype: dtype of the computation; parameters stay float32.
    """

    ratio: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to the same shape."""
        width = x.shape[-1]
        conv = layers.conv(
            width,
            7,
            groups=width,
            use_bias=True,
            init=_INIT,
            dtype=self.dtype,
            name="depthwise_conv",
        )
        y = layers.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(conv(x))
        y = self._dense(self.ratio * width, "in")(y)
        y = self._dense(width, "out")(nn.gelu(y, approximate=False))
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (width,))
        return x + y * scale.astype(y.dtype)

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, dtype=self.dtype, kernel_init=_INIT, name=name)


class ConvNeXt(nn.Module):
    """A ConvNeXt.

    Attributes:
      num_classes: number of logits.
      blocks: blocks of each stage.
      widths: of each stage.
      patch: side of a patch, and stride of the first convolution, in pixels.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    blocks: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    patch: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``.
          train: unused; there is no dropout and no batch norm.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the features ``stem``,
          ``stage1`` ... (a quarter of the image's size, an eighth, ...),
          ``stage1_preact`` ... (the same: no ReLU follows) and ``pooled``
          ``[batch, channels]``, after the last norm.
        """
        del train
        x = self._reduce(self.widths[0], self.patch, "stem_conv")(images)
        x = self._norm("stem_norm")(x)
        features = {"stem": x}
        stages = zip(self.blocks, self.widths, strict=True)
        for stage, (count, width) in enumerate(stages, start=1):
            if stage > 1:
                x = self._norm(f"stage{stage}_downsample_norm")(x)
                x = self._reduce(width, 2, f"stage{stage}_downsample_conv")(x)
            for index in range(count):
                block = Block(dtype=self.dtype, name=f"stage{stage}_block{index}")
                x = block(x)
            features[f"stage{stage}"] = features[f"stage{stage}_preact"] = x
        norm = layers.LayerNorm(epsilon=EPSILON, name="head_norm")  # in float32
        features["pooled"] = norm(layers.global_mean(x))
        head = layers.Linear(
            self.num_classes, kernel_std=0.02, zero_bias=True, name="fc"
        )
        return head(features["pooled"]), features

    def _norm(self, name: str) -> nn.LayerNorm:
        return layers.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=name)

    def _reduce(self, width: int, side: int, name: str) -> nn.Conv:
        """Makes a convolution over squares that do not overlap, without padding."""
        return nn.Conv(
            width,
            (side, side),
            (side, side),
            padding="VALID",
            kernel_init=_INIT,
            dtype=self.dtype,
            name=name,
        )


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "convnext_tiny": (ConvNeXt, {}),
    "convnext_small": (ConvNeXt, {"blocks": (3, 3, 27, 3)}),
    "convnext_base": (
        ConvNeXt,
        {"blocks": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    ),
    "convnext_large": (
        ConvNeXt,
        {"blocks": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
    ),
}
