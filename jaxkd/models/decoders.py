"""Networks that turn codes into pictures, and what generative pre-training needs."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.vit import EPSILON, EncoderBlock, FeedForward, sincos_positions


class GaussianHead(nn.Module):
    """Two dense layers from features to the mean and log-variance of latents.

    Attributes:
      latents: number of latents.
    """

    latents: int = 256

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps ``[batch, features]`` to two arrays ``[batch, latents]``."""
        mean = layers.Linear(self.latents, name="mean")(x)
        return mean, layers.Linear(self.latents, name="log_variance")(x)


class ConvDecoder(nn.Module):
    """Nearest-neighbour enlargements, each with a residual pair of 3x3 convolutions.

    Attributes:
      shape: of the picture: height, width and channels.
      widths: channels at each size, from the smallest; every one doubles the side.
      dtype: dtype of the computation; parameters and the picture stay float32.
    """

    shape: tuple[int, ...]
    widths: Sequence[int] = (256, 128, 64, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, codes: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, latents]`` to ``[batch, height, width, channels]``.

        Raises:
          ValueError: if the picture cannot be halved as often as there are widths.
        """
        height, width, channels = self.shape
        factor = 2 ** len(self.widths)
        if height % factor or width % factor:
            raise ValueError(
                f"The picture has {height} x {width} pixels, expected multiples of "
                f"{factor} for {len(self.widths)} enlargements. Shorten widths."
            )
        conv, norm = layers.factories(train, False, self.dtype)
        start = height // factor, width // factor, self.widths[0]
        x = layers.Linear(start[0] * start[1] * start[2], name="dense")(codes)
        x = x.reshape(-1, *start).astype(self.dtype)
        for stage, filters in enumerate(self.widths):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            y = nn.relu(norm(name=f"bn{stage}a")(conv(filters, 3, name=f"a{stage}")(x)))
            y = norm(name=f"bn{stage}b")(conv(filters, 3, name=f"b{stage}")(y))
            if x.shape[-1] != filters:
                x = conv(filters, 1, name=f"shortcut{stage}")(x)
            x = nn.relu(x + y)
        return conv(channels, 3, use_bias=True, name="picture")(x).astype(jnp.float32)


class MaskedDecoder(nn.Module):
    """The decoder of a masked autoencoder: visible tokens in, all patches out.

    Attributes:
      values: of a patch: its pixels times channels.
      grid: rows and columns of patches.
      width: of its tokens.
      depth: number of blocks.
      heads: of each block.
    """

    values: int
    grid: tuple[int, int]
    width: int = 512
    depth: int = 1
    heads: int = 16

    @nn.compact
    def __call__(self, visible: jax.Array, keep: jax.Array) -> jax.Array:
        """Predicts the pixels of all patches.

        Args:
          visible: ``[batch, kept, features]``, the encoder's tokens.
          keep: integers ``[batch, kept]``: which patches they are.

        Returns:
          ``[batch, patches, values]``.
        """
        batch, patches = len(visible), self.grid[0] * self.grid[1]
        x = nn.Dense(self.width, name="embedding")(visible)
        token = self.param(
            "mask_token", nn.initializers.normal(0.02), (1, 1, self.width)
        )
        tokens = jnp.broadcast_to(token, (batch, patches, self.width))
        tokens = tokens.at[jnp.arange(batch)[:, None], keep].set(x)
        x = tokens + sincos_positions(self.grid, self.width)
        for index in range(self.depth):
            x = EncoderBlock(self.heads, name=f"block{index}")(x)
        x = layers.LayerNorm(epsilon=EPSILON, name="norm")(x)
        return nn.Dense(self.values, name="pixels")(x)


class PatchHead(nn.Module):
    """AIM's head: predicts a patch's pixels from the token at a place.

    Attributes:
      values: of a patch: its pixels times channels.
      grid: rows and columns of patches.
      width: of the hidden layer.
      depth: number of residual blocks.
    """

    values: int
    grid: tuple[int, int]
    width: int = 2048
    depth: int = 1

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps ``[batch, patches, features]`` to ``[batch, patches, values]``."""
        x = tokens + sincos_positions(self.grid, tokens.shape[-1])
        x = nn.Dense(self.width, use_bias=False, name="in")(x)
        for index in range(self.depth):
            y = layers.LayerNorm(epsilon=EPSILON, name=f"norm{index}")(x)
            x = x + FeedForward(name=f"feed_forward{index}")(y)
        x = layers.LayerNorm(epsilon=EPSILON, name="norm")(x)
        return nn.Dense(self.values, use_bias=False, name="pixels")(x)
