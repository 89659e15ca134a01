"""Parts that networks of super-resolution share: enlarging by moving channels.

Super-resolution networks map ``[batch, height, width, channels]`` to the same with both
sides multiplied by ``scale``. They are built with ``num_classes`` as all networks of
the library, and do not use it.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


def conv3x3(width: int, name: str, dtype: Any = jnp.float32) -> nn.Conv:
    """Makes a 3x3 convolution with a bias, as torch starts it but for a zero bias."""
    return layers.conv(
        width, 3, use_bias=True, init=layers.TORCH_UNIFORM, dtype=dtype, name=name
    )


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Moves channels into pixels, ordered as ``torch.nn.PixelShuffle`` orders them.

    Args:
      x: ``[batch, height, width, channels factor^2]``.
      factor: of both sides.

    Returns:
      ``[batch, height factor, width factor, channels]``.

    Raises:
      ValueError: if the channels do not divide by ``factor^2``.

    >>> import jax.numpy as jnp
    >>> pixel_shuffle(jnp.arange(4.0).reshape(1, 1, 1, 4), 2)[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    batch, height, width, channels = x.shape
    if channels % factor**2:
        raise ValueError(
            f"x has {channels} channels, expected a multiple of factor^2 = {factor**2}."
        )
    x = x.reshape(batch, height, width, channels // factor**2, factor, factor)
    x = x.transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, height * factor, width * factor, -1)


class Enlarge(nn.Module):
    """Enlarges features by convolutions and pixel shuffles, by 2 or 3 at a time.

    Attributes:
      scale: a power of 2, or 3.
      dtype: of the computation.
    """

    scale: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, scale h, scale w, c]``."""
        for index, factor in enumerate(factors(self.scale)):
            name = f"conv{index + 1}"
            x = conv3x3(factor**2 * x.shape[-1], name, self.dtype)(x)
            x = pixel_shuffle(x, factor)
        return x


def factors(scale: int) -> tuple[int, ...]:
    """Splits a scale into factors of 2, or the one factor 3.

    Raises:
      ValueError: for scales other than 1, 3 and powers of 2.
    """
    if scale == 3:
        return (3,)
    if scale < 1 or scale & (scale - 1):
        raise ValueError(f"scale is {scale}, expected 3 or a power of 2.")
    return (2,) * (scale.bit_length() - 1)


def enlarged(x: jax.Array, scale: int) -> jax.Array:
    """Enlarges images ``[batch, h, w, c]`` bicubically (Keys, a = -1/2)."""
    batch, height, width, channels = x.shape
    shape = (batch, height * scale, width * scale, channels)
    return jax.image.resize(x, shape, "cubic")
