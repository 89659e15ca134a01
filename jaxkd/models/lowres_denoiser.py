"""A small conditional denoiser, whose encoder serves as a generative teacher.

As in super-resolution by diffusion (SR3, Saharia et al., arXiv:2104.07636), a U-Net is
shown a noisy large image beside the enlarged small one, and predicts the noise. Its
deepest features have to know what is in the image. Noise level and condition come as
channels, so that it is a network of one input as the others.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

GROUPS = 8


class Denoiser(nn.Module):
    """A U-Net over ``[batch, h, w, 2 c + 1]``: noisy image, condition, noise level.

    Images are taken apart into 2 x 2 pixels first, which quarters the cost.

    Attributes:
      num_classes: unused; networks are built with it.
      widths: channels at 1/2, 1/4 and 1/8 of the side, divisible by 8.
      dtype: of the computation; the result is float32.
    """

    num_classes: int
    widths: tuple[int, ...] = (32, 64, 128)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Predicts the noise ``[batch, h, w, c]``.

        Args:
          images: as above, in about [-2, 2]; ``h`` and ``w`` are divisible by 8.
          train: without effect.

        Returns:
          The noise, and the features ``stage1`` ... of the encoder, and ``pooled``.
        """
        del train
        channels = (images.shape[-1] - 1) // 2
        x = space_to_depth(images.astype(self.dtype))
        features = {}
        for stage, width in enumerate(self.widths, start=1):
            stride = 1 if stage == 1 else 2
            x = self._conv(width, stride, f"down{stage}")(x)
            x = self._block(x, width, f"encode{stage}")
            features[f"stage{stage}"] = x
        features["pooled"] = layers.global_mean(x)
        for stage in range(len(self.widths) - 1, 0, -1):
            width = self.widths[stage - 1]
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = jnp.concatenate([x, features[f"stage{stage}"]], axis=-1)
            x = self._conv(width, 1, f"up{stage}")(x)
            x = self._block(x, width, f"decode{stage}")
        x = nn.silu(layers.GroupNorm(GROUPS, dtype=self.dtype, name="out_norm")(x))
        x = self._conv(4 * channels, 1, "out")(x)
        return depth_to_space(x).astype(jnp.float32), features

    def _conv(self, width: int, stride: int, name: str) -> nn.Conv:
        return layers.conv(
            width,
            3,
            stride,
            use_bias=True,
            init=layers.TORCH_UNIFORM,
            dtype=self.dtype,
            name=name,
        )

    def _block(self, x: jax.Array, width: int, name: str) -> jax.Array:
        y = nn.silu(layers.GroupNorm(GROUPS, dtype=self.dtype, name=f"{name}_norm1")(x))
        y = self._conv(width, 1, f"{name}_conv1")(y)
        y = nn.silu(layers.GroupNorm(GROUPS, dtype=self.dtype, name=f"{name}_norm2")(y))
        return x + self._conv(width, 1, f"{name}_conv2")(y)


def space_to_depth(x: jax.Array) -> jax.Array:
    """Moves 2 x 2 pixels into channels: ``[b, h / 2, w / 2, 4 c]``."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // 2, 2, width // 2, 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(count, height // 2, width // 2, 4 * channels)


def depth_to_space(x: jax.Array) -> jax.Array:
    """Undoes ``space_to_depth``."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height, width, 2, 2, channels // 4)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(count, 2 * height, 2 * width, channels // 4)


VARIANTS: dict[str, Any] = {"lowres_denoiser": (Denoiser, {})}
