"""A network of one's own: patches of an image, mixed by two layers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PatchNet(nn.Module):
    """Cuts an image into patches, embeds them, and averages what two layers make.

    Attributes:
      num_classes: number of logits.
      width: of an embedded patch.
      patch: side of a patch, in pixels.
      dtype: of the computation.
    """

    num_classes: int
    width: int = 32
    patch: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``[batch, height, width, channels]`` to logits and named features."""
        del train
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, dtype=self.dtype, name="embed")(images)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        x = nn.relu(nn.Conv(self.width, (3, 3), dtype=self.dtype, name="mix")(x))
        pooled = x.astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(pooled), {"pooled": pooled}
