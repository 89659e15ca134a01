"""ShuffleNet for small images: ``ShuffleV1``.

Zhang et al., "ShuffleNet" (arXiv:1707.01083), with three groups and a 1x1 first
convolution, as the distillation literature uses it (arXiv:1910.10699).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

GROUPS = 3


class ShuffleBlock(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3 and grouped 1x1 convolutions.

    Returns the value *before* the last ReLU: the sum with the input or, with stride 2,
    the branch followed by the average-pooled input.

    Attributes:
      width: output channels.
      stride: of the depthwise convolution.
      first_groups: groups of the first convolution and of the shuffle.
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    width: int
    stride: int
    first_groups: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / stride, w / stride, width]``."""
        width = self.width - x.shape[-1] if self.stride == 2 else self.width
        inner = width // 4
        y = self.conv(inner, 1, groups=self.first_groups, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = layers.shuffle_channels(y, self.first_groups)
        y = self.conv(inner, 3, self.stride, groups=inner, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(width, 1, groups=GROUPS, name="conv3")(y)
        y = self.norm(name="bn3")(y)
        if self.stride == 1:
            return x + y
        # Zeros of the padding count: every window is divided by 9.
        x = nn.avg_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        return jnp.concatenate([y, x], axis=-1)


class ShuffleNetV1(nn.Module):
    """ShuffleNet with three groups.

    Attributes:
      num_classes: number of logits.
      widths: channels of each stage.
      blocks: blocks of each stage; the first has stride 2.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    widths: Sequence[int] = (240, 480, 960)
    blocks: Sequence[int] = (4, 8, 4)
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @property
    def preact_norms(self) -> dict[str, tuple[str, ...]]:
        """Where among the parameters the norm before each ``stage1_preact`` ... is.

        Of the sum that is tapped, it is the norm of the branch.
        """
        return {
            f"stage{stage}": (f"stage{stage}_block{count - 1}", "bn3")
            for stage, count in enumerate(self.blocks, start=1)
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
          ``stage1`` ... (after their ReLU), ``stage1_preact`` ... (before it) and
          ``pooled`` ``[batch, widths[-1]]``.
        """
        conv, norm = layers.factories(
            train, self.unbiased_variance, self.dtype, layers.TORCH_UNIFORM
        )
        x = conv(24, 1, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x))
        features = {"stem": x}
        stages = zip(self.widths, self.blocks, strict=True)
        for stage, (width, count) in enumerate(stages, start=1):
            for index in range(count):
                # The 24 channels of the stem do not divide into groups well.
                first_groups = 1 if stage == 1 and index == 0 else GROUPS
                stride, name = 2 if index == 0 else 1, f"stage{stage}_block{index}"
                block = ShuffleBlock(width, stride, first_groups, conv, norm, name=name)
                preact = block(x)
                x = nn.relu(preact)
            features |= {f"stage{stage}_preact": preact, f"stage{stage}": x}
        features["pooled"] = layers.global_mean(x)
        logits = layers.Linear(self.num_classes, name="fc")(features["pooled"])
        return logits, features


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "ShuffleV1": (ShuffleNetV1, {})
}
