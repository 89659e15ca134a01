"""RCAN: residual groups with channel attention, for super-resolution.

Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention
Networks" (arXiv:1807.02758): ``rcan`` has 10 groups of 20 blocks; ``rcan_small`` has 6
groups, the student's size in knowledge distillation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.edsr import tap_places
from jaxkd.models.super_resolution import Enlarge, conv3x3, enlarged


class RCAN(nn.Module):
    """A network of super-resolution.

    Attributes:
      num_classes: unused; networks are built with it.
      scale: of both sides: 2, 3, 4 or another power of 2.
      groups: residual groups, each closed by a convolution and a skip.
      blocks: of each group.
      width: channels.
      reduction: of the channels inside channel attention.
      image_skip: see ``edsr.EDSR``.
      taps: how many features to return, evenly spread over the groups.
      dtype: of the computation; the result is float32.
    """

    num_classes: int = 0
    scale: int = 2
    groups: int = 10
    blocks: int = 20
    width: int = 64
    reduction: int = 16
    image_skip: bool = False
    taps: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Enlarges images: arguments and results as of ``edsr.EDSR``."""
        del train
        channels = images.shape[-1]
        x = first = conv3x3(self.width, "head", self.dtype)(images)
        features: dict[str, jax.Array] = {}
        ends = tap_places(self.groups, self.taps)
        for group in range(self.groups):
            y = x
            for index in range(self.blocks):
                y = y + self._branch(y, f"group{group}_block{index}")
            x = x + conv3x3(self.width, f"group{group}_conv", self.dtype)(y)
            if group + 1 in ends[:-1]:
                features[f"stage{len(features) + 1}"] = x
        x = first + conv3x3(self.width, "body", self.dtype)(x)
        features[f"stage{len(features) + 1}"] = x
        x = Enlarge(self.scale, self.dtype, name="enlarge")(x)
        x = conv3x3(channels, "tail", self.dtype)(x).astype(jnp.float32)
        if self.image_skip:
            x = x + enlarged(images.astype(jnp.float32), self.scale)
        return x, features

    def _branch(self, x: jax.Array, name: str) -> jax.Array:
        y = nn.relu(conv3x3(self.width, f"{name}_conv1", self.dtype)(x))
        y = conv3x3(self.width, f"{name}_conv2", self.dtype)(y)
        weights = layers.global_mean(y)
        hidden = max(self.width // self.reduction, 1)
        weights = nn.relu(layers.Linear(hidden, name=f"{name}_squeeze")(weights))
        weights = nn.sigmoid(layers.Linear(self.width, name=f"{name}_excite")(weights))
        return y * weights[:, None, None].astype(y.dtype)


VARIANTS: dict[str, Any] = {
    "rcan": (RCAN, {}),
    "rcan_small": (RCAN, {"groups": 6}),
}
