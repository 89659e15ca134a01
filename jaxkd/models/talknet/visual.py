"""The visual encoder of TalkNet: frames of a face to one embedding for each frame."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxkd.models import layers
from jaxkd.models.ct.conv import conv_general_dilated
from jaxkd.models.talknet.layers import (
    BatchNorm,
    DepthwiseConv,
    GlobalLayerNorm,
    PReLU,
    TemporalConv,
    Where,
    keep,
    max_pool,
)

# Of grey values in [0, 1], over the LRW lip-reading set.
MEAN, STD = 0.4161, 0.1688
WINDOW = (5, 7, 7)

_norm = functools.partial(BatchNorm, epsilon=1e-3, momentum=0.99)
_conv = functools.partial(layers.conv, init=layers.TORCH_UNIFORM)


class VisualFrontend(nn.Module):
    """A 3-D convolution and a residual network of each frame.

    The official code runs all clips of a batch through the 3-D convolution as one
    sequence, so that neighbours leak into each other; here each clip is its own.

    Attributes:
      stem: channels of the 3-D convolution.
      widths: channels of the residual layers.
      window: frames, rows and columns of the 3-D convolution's kernel, odd.
    """

    stem: int = 64
    widths: Sequence[int] = (64, 128, 256, 512)
    window: tuple[int, int, int] = WINDOW

    @nn.compact
    def __call__(
        self, video: jax.Array, where: Where = None, train: bool = False
    ) -> jax.Array:
        """Maps grey ``[batch, time, height, width]`` 0..255 to ``[batch, time, c]``."""
        batch, time = video.shape[:2]
        x = keep((video / 255.0 - MEAN) / STD, where)[..., None]
        x = nn.Conv(
            self.stem,
            self.window,
            (1, 2, 2),
            padding=[(size // 2, size // 2) for size in self.window],
            use_bias=False,
            kernel_init=layers.TORCH_UNIFORM,
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)
        x = x.reshape(batch * time, *x.shape[2:])
        frames = None if where is None else where.reshape(-1)
        x = nn.relu(_norm(train, name="bn")(x, frames))
        x = max_pool(x)
        for number, width in enumerate(self.widths):
            stride = 1 if number == 0 else 2
            x = ResidualLayer(width, stride, name=f"layer{number + 1}")(
                x, frames, train
            )
        return layers.global_mean(x).reshape(batch, time, -1)


class ResidualLayer(nn.Module):
    """Two residual units, the second of which adds to the first's raw sum.

    Attributes:
      width: channels of the result.
      stride: of the first convolution.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, frames: Where, train: bool) -> jax.Array:
        """Maps ``[frames, height, width, channels]``."""
        h = _conv(self.width, 3, self.stride, name="conv1a")(x)
        h = nn.relu(_norm(train, name="bn1a")(h, frames))
        h = _conv(self.width, 3, name="conv2a")(h)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = layers.subsample(x, self.stride)
            x = _conv(self.width, 1, name="downsample")(x)
        middle = h + x
        y = nn.relu(_norm(train, name="outbna")(middle, frames))
        h = _conv(self.width, 3, name="conv1b")(y)
        h = nn.relu(_norm(train, name="bn1b")(h, frames))
        h = _conv(self.width, 3, name="conv2b")(h)
        return nn.relu(_norm(train, name="outbnb")(h + middle, frames))


class VisualTemporal(nn.Module):
    """Residual blocks of depthwise convolutions over time, and two convolutions.

    Attributes:
      width: channels of the result.
      hidden: channels of the convolution before it.
      blocks: number of residual blocks.
    """

    width: int = 128
    hidden: int = 256
    blocks: int = 5

    @nn.compact
    def __call__(
        self, x: jax.Array, where: Where = None, train: bool = False
    ) -> jax.Array:
        """Maps ``[batch, time, channels]`` to ``[batch, time, width]``."""
        for number in range(self.blocks):
            x = x + TemporalBlock(name=f"block{number}")(x, where, train)
        x = TemporalConv(self.hidden, 5, name="conv1")(keep(x, where))
        x = nn.relu(BatchNorm(train, name="bn")(x, where))
        return TemporalConv(self.width, 1, name="conv2")(x)


class TemporalBlock(nn.Module):
    """ReLU, norm, depthwise convolution, PReLU, global norm, pointwise convolution."""

    @nn.compact
    def __call__(self, x: jax.Array, where: Where, train: bool) -> jax.Array:
        """Maps ``[batch, time, channels]`` to the same shape."""
        y = BatchNorm(train, name="bn")(nn.relu(x), where)
        y = PReLU(name="prelu")(DepthwiseConv(name="depthwise")(keep(y, where)))
        y = GlobalLayerNorm(name="norm")(y, where)
        return TemporalConv(x.shape[-1], 1, use_bias=False, name="pointwise")(y)


class VisualEncoder(nn.Module):
    """The frontend and the temporal part.

    Attributes:
      stem: channels of the 3-D convolution.
      widths: channels of the residual layers.
      hidden: channels before the last convolution.
      width: channels of the result.
      blocks: temporal blocks.
      window: of the 3-D convolution.
    """

    stem: int = 64
    widths: Sequence[int] = (64, 128, 256, 512)
    hidden: int = 256
    width: int = 128
    blocks: int = 5
    window: tuple[int, int, int] = WINDOW

    @nn.compact
    def __call__(
        self, video: jax.Array, where: Where = None, train: bool = False
    ) -> jax.Array:
        """Maps grey ``[batch, time, height, width]`` to ``[batch, time, width]``."""
        x = VisualFrontend(self.stem, self.widths, self.window, name="frontend")(
            video, where, train
        )
        return VisualTemporal(self.width, self.hidden, self.blocks, name="temporal")(
            x, where, train
        )
