"""EDSR: deep residual networks without normalisation, for super-resolution.

Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution"
(arXiv:1707.02921): ``edsr_baseline`` is the paper's small network (16 blocks of 64
channels), ``edsr`` the large one (32 of 256, whose branches are scaled by 0.1).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.super_resolution import Enlarge, conv3x3, enlarged


class EDSR(nn.Module):
    """A network of super-resolution.

    Attributes:
      num_classes: unused; networks are built with it.
      scale: of both sides: 2, 3, 4 or another power of 2.
      blocks: residual blocks.
      width: channels.
      branch_scale: what the branch of a block is multiplied by.
      image_skip: whether the network's result is added to the bicubically enlarged
        image. EDSR does without; it saves a small network the first thousands of steps.
      taps: how many features to return, evenly spread over the blocks.
      dtype: of the computation; the result is float32.
    """

    num_classes: int = 0
    scale: int = 2
    blocks: int = 16
    width: int = 64
    branch_scale: float = 1.0
    image_skip: bool = False
    taps: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Enlarges images.

        Args:
          images: ``[batch, h, w, c]``.
          train: without effect.

        Returns:
          ``[batch, scale h, scale w, c]``, and the features ``stage1`` ...
          ``[batch, h, w, width]`` (the last behind the body's long skip).
        """
        del train
        channels = images.shape[-1]
        x = first = conv3x3(self.width, "head", self.dtype)(images)
        features: dict[str, jax.Array] = {}
        ends = tap_places(self.blocks, self.taps)
        for index in range(self.blocks):
            y = nn.relu(conv3x3(self.width, f"block{index}_conv1", self.dtype)(x))
            y = conv3x3(self.width, f"block{index}_conv2", self.dtype)(y)
            x = x + self.branch_scale * y
            if index + 1 in ends[:-1]:
                features[f"stage{len(features) + 1}"] = x
        x = first + conv3x3(self.width, "body", self.dtype)(x)
        features[f"stage{len(features) + 1}"] = x
        x = Enlarge(self.scale, self.dtype, name="enlarge")(x)
        x = conv3x3(channels, "tail", self.dtype)(x).astype(jnp.float32)
        if self.image_skip:
            x = x + enlarged(images.astype(jnp.float32), self.scale)
        return x, features


def tap_places(blocks: int, taps: int) -> tuple[int, ...]:
    """Spreads ``taps`` evenly over ``blocks``: after which blocks they are.

    Raises:
      ValueError: if there are more taps than blocks, or none.

    >>> tap_places(16, 4)
    (4, 8, 12, 16)
    """
    if not 1 <= taps <= blocks:
        raise ValueError(f"taps is {taps}, expected 1 to {blocks}, the blocks.")
    return tuple(round(blocks * (i + 1) / taps) for i in range(taps))


VARIANTS: dict[str, Any] = {
    "edsr": (EDSR, {"blocks": 32, "width": 256, "branch_scale": 0.1}),
    "edsr_baseline": (EDSR, {}),
}
