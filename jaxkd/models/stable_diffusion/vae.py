"""The autoencoder of Stable Diffusion: images to latents of an eighth of their size.

Modules are named after the keys of published checkpoints (AutoencoderKL).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.conv import conv_general_dilated
from jaxkd.models.stable_diffusion.unet_blocks import (
    Downsample,
    ResidualBlock,
    Upsample,
    conv_with_bias,
    group_norm,
)

_EPSILON = 1e-6
SCALING_FACTOR = 0.18215


class Autoencoder(nn.Module):
    """Encodes images as Gaussians over latents, and decodes latents.

    The UNet works on ``scaling_factor`` times a latent.

    Attributes:
      channels: of the images.
      latent_channels: of the latents.
      widths: of the levels, each of half the size of the one before it.
      layers_per_block: residual blocks of the encoder; the decoder has one more.
      groups: of the group norms.
      scaling_factor: that brings latents to unit variance.
      dtype: of the computation; norms and softmax are at least float32.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    scaling_factor: float = SCALING_FACTOR
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the parts, under the names they have in checkpoints."""
        common = (self.widths, self.layers_per_block, self.groups, self.dtype)
        self.encoder = Encoder(2 * self.latent_channels, *common)
        self.decoder = Decoder(self.channels, *common)
        self.quant_conv = _bare_conv(2 * self.latent_channels, self.dtype)
        self.post_quant_conv = _bare_conv(self.latent_channels, self.dtype)

    @property
    def factor(self) -> int:
        """Pixels of an image for each pixel of its latents, along one side."""
        return 2 ** (len(self.widths) - 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Reconstructs images from the means of their latents."""
        return self.decode(self.encode(images)[0])

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encodes images ``[batch, height, width, channels]`` of [-1, 1].

        Returns:
          Mean and logarithm of the variance (limited to [-30, 20]) of the latents
          ``[batch, height / 8, width / 8, latent_channels]``, not scaled, float32.

        Raises:
          ValueError: for images of another form.
        """
        if (
            images.ndim != 4
            or images.shape[-1] != self.channels
            or any(side % self.factor for side in images.shape[1:3])
        ):
            raise ValueError(
                f"Images of shape {images.shape}; expected [batch, height, width, "
                f"{self.channels}], height and width multiples of {self.factor}. Crop "
                "or resize them."
            )
        moments = self.quant_conv(self.encoder(images.astype(self.dtype)))
        wide = jnp.promote_types(moments.dtype, jnp.float32)
        mean, logvar = jnp.split(moments.astype(wide), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decodes unscaled latents into images of about [-1, 1], float32.

        Raises:
          ValueError: for latents of another form.
        """
        if latents.ndim != 4 or latents.shape[-1] != self.latent_channels:
            raise ValueError(
                f"Latents of shape {latents.shape}; expected [batch, height, width, "
                f"{self.latent_channels}]."
            )
        images = self.decoder(self.post_quant_conv(latents.astype(self.dtype)))
        return images.astype(jnp.promote_types(images.dtype, jnp.float32))


class Encoder(nn.Module):
    """The way from images to the moments of latents; see ``Autoencoder``."""

    outputs: int
    widths: tuple[int, ...]
    layers_per_block: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, height, width, channels]`` to moments of latents."""
        x = conv_with_bias(self.widths[0], 3, dtype=self.dtype, name="conv_in")(x)
        for i, width in enumerate(self.widths):
            for j in range(self.layers_per_block):
                name = f"down_blocks_{i}_resnets_{j}"
                x = _residual(width, self.groups, self.dtype, name)(x)
            if i < len(self.widths) - 1:
                name = f"down_blocks_{i}_downsamplers_0"
                x = Downsample(self.dtype, far_side_only=True, name=name)(x)
        x = _middle(x, self.groups, self.dtype)
        x = group_norm(self.groups, _EPSILON, self.dtype, "conv_norm_out")(x)
        return conv_with_bias(self.outputs, 3, dtype=self.dtype, name="conv_out")(
            jax.nn.silu(x)
        )


class Decoder(nn.Module):
    """The way from latents to images; see ``Autoencoder``."""

    outputs: int
    widths: tuple[int, ...]
    layers_per_block: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, latent channels]`` to images of eight times the size."""
        x = conv_with_bias(self.widths[-1], 3, dtype=self.dtype, name="conv_in")(x)
        x = _middle(x, self.groups, self.dtype)
        for i, width in enumerate(reversed(self.widths)):
            for j in range(self.layers_per_block + 1):
                name = f"up_blocks_{i}_resnets_{j}"
                x = _residual(width, self.groups, self.dtype, name)(x)
            if i < len(self.widths) - 1:
                x = Upsample(self.dtype, name=f"up_blocks_{i}_upsamplers_0")(x)
        x = group_norm(self.groups, _EPSILON, self.dtype, "conv_norm_out")(x)
        return conv_with_bias(self.outputs, 3, dtype=self.dtype, name="conv_out")(
            jax.nn.silu(x)
        )


class PixelAttention(nn.Module):
    """Attention among pixels with one head, biases and a norm before it.

    Attributes:
      groups: of the norm.
      dtype: of the computation.
    """

    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to the same shape."""
        width = x.shape[-1]
        h = group_norm(self.groups, _EPSILON, self.dtype, "group_norm")(x)
        h = h.reshape(x.shape[0], -1, 1, width)
        q, k, v = (
            nn.Dense(width, dtype=self.dtype, name=name)(h)
            for name in ("to_q", "to_k", "to_v")
        )
        h = jax.nn.dot_product_attention(q, k, v)
        h = nn.Dense(width, dtype=self.dtype, name="to_out_0")(h)
        return x + h.reshape(x.shape)


def _middle(x: jax.Array, groups: int, dtype: Any) -> jax.Array:
    width = x.shape[-1]
    x = _residual(width, groups, dtype, "mid_block_resnets_0")(x)
    x = PixelAttention(groups, dtype, name="mid_block_attentions_0")(x)
    return _residual(width, groups, dtype, "mid_block_resnets_1")(x)


def _residual(width: int, groups: int, dtype: Any, name: str) -> ResidualBlock:
    return ResidualBlock(width, groups, dtype, _EPSILON, name=name)


def _bare_conv(width: int, dtype: Any) -> nn.Conv:
    # Named by the attribute that it becomes.
    return nn.Conv(
        width, (1, 1), padding=0, conv_general_dilated=conv_general_dilated, dtype=dtype
    )
