"""Light networks of super-resolution for irises: SRCNN, and auto-encoders of patches.

- ``srcnn``: three convolutions (9, 1 and 5 pixels; 64 and 32 channels) on the enlarged
  image (Dong et al., arXiv:1501.00092).
- ``patch_autoencoder``: dense layers on overlapping patches of the enlarged image, as
  stacked auto-encoders are used in "Exploring Deep Learning Image Super-Resolution for
  Iris Recognition" (arXiv:2311.01241), whose details we do not know.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.super_resolution import enlarged


class SRCNN(nn.Module):
    """Three convolutions that correct the enlarged image.

    Attributes:
      num_classes: unused; networks are built with it.
      scale: of both sides.
      widths: channels of the first two.
      sizes: of the three kernels.
      dtype: of the computation; the result is float32.
    """

    num_classes: int = 0
    scale: int = 2
    widths: tuple[int, int] = (64, 32)
    sizes: tuple[int, int, int] = (9, 1, 5)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``[batch, h, w, c]`` to ``[batch, scale h, scale w, c]``."""
        del train
        large = enlarged(images.astype(jnp.float32), self.scale)
        x, features = large, {}
        for index, (width, size) in enumerate(
            zip((*self.widths, images.shape[-1]), self.sizes, strict=True)
        ):
            last = index == len(self.widths)
            start = nn.initializers.normal(1e-3) if last else layers.HE_FAN_OUT
            x = layers.conv(
                width,
                size,
                use_bias=True,
                init=start,
                dtype=self.dtype,
                name=f"conv{index + 1}",
            )(x)
            if not last:
                x = nn.relu(x)
                features[f"stage{index + 1}"] = x
        return large + x.astype(jnp.float32), features


class PatchAutoencoder(nn.Module):
    """Dense layers with sigmoids that correct overlapping patches.

    Attributes:
      num_classes: unused; networks are built with it.
      scale: of both sides.
      side: of a patch.
      stride: between patches; where they overlap, the mean is taken.
      widths: of the layers between the pixels.
      dtype: of the input; the layers are float32.
    """

    num_classes: int = 0
    scale: int = 2
    side: int = 8
    stride: int = 4
    widths: Sequence[int] = (64, 128, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``[batch, h, w, c]`` to ``[batch, scale h, scale w, c]``.

        Raises:
          ValueError: if the large sides do not hold whole strides of patches.
        """
        del train
        large = enlarged(images.astype(self.dtype).astype(jnp.float32), self.scale)
        if any((size - self.side) % self.stride for size in large.shape[1:3]):
            raise ValueError(
                f"Enlarged images are {large.shape[1:3]}, expected patches of "
                f"{self.side} pixels every {self.stride} to end with the image."
            )
        x = patches(large, self.side, self.stride)
        shape = x.shape
        x, features = x.reshape(*shape[:3], -1), {}
        size = x.shape[-1]
        for index, width in enumerate(self.widths, start=1):
            x = nn.sigmoid(layers.Linear(width, name=f"dense{index}")(x))
            features[f"stage{index}"] = x
        x = layers.Linear(size, kernel_std=1e-3, zero_bias=True, name="out")(x)
        return large + joined(x.reshape(shape), self.stride), features


def patches(images: jax.Array, side: int, stride: int) -> jax.Array:
    """Cuts ``[batch, h, w, c]`` into ``[batch, rows, columns, side, side, c]``."""
    height, width = images.shape[1:3]
    rows = jnp.arange((height - side) // stride + 1)[:, None] * stride
    columns = jnp.arange((width - side) // stride + 1)[:, None] * stride
    cut = images[:, rows + jnp.arange(side)]  # [b, rows, side, w, c]
    return cut[:, :, :, columns + jnp.arange(side)].swapaxes(2, 3)


def joined(x: jax.Array, stride: int) -> jax.Array:
    """Joins what ``patches`` cut, taking the mean where patches overlap."""
    batch, rows, columns, side, _, channels = x.shape
    height, width = ((n - 1) * stride + side for n in (rows, columns))
    row = jnp.arange(rows)[:, None] * stride + jnp.arange(side)
    column = jnp.arange(columns)[:, None] * stride + jnp.arange(side)
    place = row[:, None, :, None], column[None, :, None, :]
    total = jnp.zeros((batch, height, width, channels)).at[:, *place].add(x)
    count = jnp.zeros((height, width, 1)).at[place].add(1.0)
    return total / count


VARIANTS: dict[str, Any] = {
    "srcnn": (SRCNN, {}),
    "patch_autoencoder": (PatchAutoencoder, {}),
}
