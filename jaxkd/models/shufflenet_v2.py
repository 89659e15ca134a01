"""ShuffleNetV2 for small images: ``ShuffleV2``.

Ma et al., "ShuffleNet V2" (arXiv:1807.11164), at width 1 with a 1x1 first convolution,
as the distillation literature uses it (arXiv:1910.10699).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


class DownBlock(nn.Module):
    """Two branches of stride 2, concatenated and shuffled.

    Attributes:
      width: output channels.
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    width: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / 2, w / 2, width]``."""
        inputs, half = x.shape[-1], self.width // 2
        left = self.conv(inputs, 3, 2, groups=inputs, name="conv1")(x)
        left = self.norm(name="bn1")(left)
        left = self.conv(half, 1, name="conv2")(left)
        left = nn.relu(self.norm(name="bn2")(left))
        right = self.conv(half, 1, name="conv3")(x)
        right = nn.relu(self.norm(name="bn3")(right))
        right = self.conv(half, 3, 2, groups=half, name="conv4")(right)
        right = self.norm(name="bn4")(right)
        right = self.conv(half, 1, name="conv5")(right)
        right = nn.relu(self.norm(name="bn5")(right))
        return layers.shuffle_channels(jnp.concatenate([left, right], axis=-1), 2)


class SplitBlock(nn.Module):
    """Keeps half of the channels, convolves the others, and shuffles both.

    Attributes:
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps ``[batch, h, w, c]`` to the same shape.

        Returns:
          The result, and both halves before ReLU and shuffle.
        """
        half = x.shape[-1] // 2
        kept, y = x[..., :half], x[..., half:]
        y = self.conv(half, 1, name="conv1")(y)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(half, 3, groups=half, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        y = self.conv(half, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y)
        preact = jnp.concatenate([kept, y], axis=-1)
        both = jnp.concatenate([kept, nn.relu(y)], axis=-1)
        return layers.shuffle_channels(both, 2), preact


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2.

    Attributes:
      num_classes: number of logits.
      widths: channels of each stage.
      blocks: blocks of each stage after its first, which has stride 2.
      head: channels of the last convolution.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    widths: Sequence[int] = (116, 232, 464)
    blocks: Sequence[int] = (3, 7, 3)
    head: int = 1024
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

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
          ``stage1`` ..., ``stage1_preact`` ... (the halves of the stage's last block
          before ReLU, side by side as before the shuffle) and ``pooled``
          ``[batch, head]``.
        """
        conv, norm = layers.factories(
            train, self.unbiased_variance, self.dtype, layers.TORCH_UNIFORM
        )
        x = conv(24, 1, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x))
        features = {"stem": x}
        stages = zip(self.widths, self.blocks, strict=True)
        for stage, (width, count) in enumerate(stages, start=1):
            x = DownBlock(width, conv, norm, name=f"stage{stage}_block0")(x)
            for index in range(1, count + 1):
                name = f"stage{stage}_block{index}"
                x, preact = SplitBlock(conv, norm, name=name)(x)
            features |= {f"stage{stage}_preact": preact, f"stage{stage}": x}
        x = conv(self.head, 1, name="conv2")(x)
        x = nn.relu(norm(name="bn2")(x))
        features["pooled"] = layers.global_mean(x)
        logits = layers.Linear(self.num_classes, name="fc")(features["pooled"])
        return logits, features


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "ShuffleV2": (ShuffleNetV2, {})
}
