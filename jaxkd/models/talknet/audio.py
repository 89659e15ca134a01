"""The audio encoder of TalkNet: a squeeze-and-excitation ResNet of MFCC.

Its maps lie as ``[batch, coefficient, time, channels]``.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.conv import conv_general_dilated
from jaxkd.models.talknet.layers import BatchNorm, SqueezeExcite, Where

# (coefficients, time) of each layer's first block.
STRIDES = ((1, 1), (2, 2), (2, 2), (1, 1))


class AudioEncoder(nn.Module):
    """Four MFCC rows for each video frame to one embedding for it.

    Attributes:
      blocks: of each layer.
      widths: channels of each layer; the last is that of the result.
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (16, 32, 64, 128)

    @nn.compact
    def __call__(
        self, mfcc: jax.Array, where: Where = None, train: bool = False
    ) -> jax.Array:
        """Maps ``[batch, 4 time, coefficients]`` to ``[batch, time, width]``.

        Args:
          mfcc: rows of coefficients, four for each frame.
          where: ``[batch, time]``, frames that are there.
          train: whether batch norm uses the batch.
        """
        rows = None if where is None else jnp.repeat(where, 4, axis=1)
        x = jnp.swapaxes(mfcc, 1, 2)[..., None]
        x = _conv(self.widths[0], 7, (2, 1), name="conv1")(_keep(x, rows))
        x = nn.relu(_norm(x, rows, train, "bn1"))
        for number, (count, width) in enumerate(
            zip(self.blocks, self.widths, strict=True)
        ):
            for place in range(count):
                stride = STRIDES[number] if place == 0 else (1, 1)
                x = Block(width, stride, name=f"layer{number + 1}_block{place}")(
                    x, rows, train
                )
                rows = None if rows is None else rows[:, :: stride[1]]
        return jnp.mean(x, axis=1)


class Block(nn.Module):
    """Two convolutions, the first with its ReLU before its norm, and a gate.

    Attributes:
      width: channels of the result.
      stride: of the first convolution, (coefficients, time).
    """

    width: int
    stride: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array, rows: Where, train: bool) -> jax.Array:
        """Maps ``[batch, coefficient, time, channels]``."""
        after = None if rows is None else rows[:, :: self.stride[1]]
        y = _conv(self.width, 3, self.stride, name="conv1")(_keep(x, rows))
        y = _norm(nn.relu(y), after, train, "bn1")
        y = _conv(self.width, 3, name="conv2")(_keep(y, after))
        y = SqueezeExcite(name="se")(_norm(y, after, train, "bn2"), after)
        if self.stride != (1, 1) or x.shape[-1] != self.width:
            x = x[:, :: self.stride[0], :: self.stride[1]]
            x = _conv(self.width, 1, name="shortcut_conv")(x)
            x = _norm(x, after, train, "shortcut_bn")
        return nn.relu(y + x)


def _conv(width: int, size: int, stride: tuple[int, int] = (1, 1), *, name: str):
    return nn.Conv(
        width,
        (size, size),
        stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=layers.HE_FAN_OUT,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def _keep(x: jax.Array, rows: Where) -> jax.Array:
    return x if rows is None else jnp.where(rows[:, None, :, None], x, 0)


def _norm(x: jax.Array, rows: Where, train: bool, name: str) -> jax.Array:
    """Normalises; the mask broadcasts over the coefficients."""
    return BatchNorm(train, name=name)(x, None if rows is None else rows[:, None, :])
