"""Pre-activation residual units for volumes (arXiv:1603.05027 in three dimensions)."""

import flax.linen as nn
import jax

from jaxkd.models import layers


class BasicUnit(nn.Module):
    """Norm, ReLU and a 3x3x3 convolution, twice, and a shortcut.

    Attributes:
      width: channels of the result.
      stride: of the first convolution, along every axis.
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    width: int
    stride: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, d, h, w, c]`` to ``[batch, d, h, w (/ stride), width]``."""
        active = nn.relu(self.norm(name="bn1")(x))
        y = self.conv(self.width, 3, self.stride, name="conv1")(active)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        return y + _shortcut(x, active, self.width, self.stride, self.conv)


class BottleneckUnit(nn.Module):
    """Norm, ReLU and convolutions of 1, 3 and 1 voxels, and a shortcut.

    The inner convolutions have a quarter of the channels, and the second one the
    stride. Attributes as of ``BasicUnit``.
    """

    width: int
    stride: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, d, h, w, c]`` to ``[batch, d, h, w (/ stride), width]``."""
        active = nn.relu(self.norm(name="bn1")(x))
        y = self.conv(self.width // 4, 1, name="conv1")(active)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(self.width // 4, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn3")(y))
        y = self.conv(self.width, 1, name="conv3")(y)
        return y + _shortcut(x, active, self.width, self.stride, self.conv)


def _shortcut(x, active, width, stride, conv):
    """Passes ``x`` on, or projects what the unit sees if the shape changes."""
    if stride == 1 and x.shape[-1] == width:
        return x
    active = active[:, ::stride, ::stride, ::stride]
    return conv(width, 1, name="shortcut")(active)
