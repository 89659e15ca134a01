"""A 2-D network on every slice, and the maximum over slices, as COVNet has it.

Li et al., Radiology 296 (2020), "Using Artificial Intelligence to Detect COVID-19 and
Community-acquired Pneumonia Based on Pulmonary CT": one residual network for all
slices, its averaged features, their maximum over the slices, a linear classifier.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.resnet import BasicBlock, BottleneckBlock


class COVNet(nn.Module):
    """The network.

    Attributes:
      num_classes: number of logits.
      blocks: of each stage.
      stem: channels of the first convolution, 7x7 with stride 2.
      widths: of the stages' blocks.
      strides: of the stages' first blocks.
      block: ``BasicBlock`` or ``BottleneckBlock``.
      pool: whether max-pooling follows the stem.
      dtype: of the computation; parameters and logits stay float32.
    """

    num_classes: int
    blocks: Sequence[int]
    stem: int
    widths: Sequence[int]
    strides: Sequence[int]
    block: type[nn.Module] = BottleneckBlock
    pool: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, volumes: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          volumes: ``[batch, depth, height, width, channels]``; slices of one channel
            are repeated to three, as for pretrained networks.
          train: whether batch normalisation uses (and updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]``, and the features ``slices``
          ``[batch, depth, channels]`` and ``pooled`` ``[batch, channels]``.
        """
        conv, norm = layers.factories(train, False, self.dtype)
        batch, depth, height, width, channels = volumes.shape
        x = volumes.reshape(batch * depth, height, width, channels)
        x = jnp.repeat(x, 3, axis=-1) if channels == 1 else x
        x = nn.relu(norm(name="bn1")(conv(self.stem, 7, 2, name="conv1")(x)))
        if self.pool:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        stages = zip(self.blocks, self.widths, self.strides, strict=True)
        for stage, (count, wide, stride) in enumerate(stages, start=1):
            for index in range(count):
                name = f"stage{stage}_block{index}"
                first = stride if index == 0 else 1
                x = nn.relu(self.block(wide, first, conv, norm, name=name)(x))
        slices = layers.global_mean(x).reshape(batch, depth, -1)
        features = {"slices": slices, "pooled": jnp.max(slices, axis=1)}
        return layers.Linear(self.num_classes, name="fc")(features["pooled"]), features


VARIANTS = {
    "covnet50": (
        COVNet,
        {
            "blocks": (3, 4, 6, 3),
            "stem": 64,
            "widths": (64, 128, 256, 512),
            "strides": (1, 2, 2, 2),
        },
    ),
    "covnet_micro": (
        COVNet,
        {
            "blocks": (1, 1),
            "stem": 16,
            "widths": (16, 32),
            "strides": (2, 2),
            "block": BasicBlock,
            "pool": False,
        },
    ),
}
