"""Reverse edge attention and spatial adaptive fusion of DeFI-Net (arXiv:2408.02191)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.defi_net.feature_pyramid import resize_to

_UP = 8  # from the coarsest level to the finest
_KERNEL = 16
_CLASSES, _LAYERS = 2, 2


class ReverseEdgeAttention(nn.Module):
    """Joins the three finer levels, and predicts the boundary of the tampered region.

    Attributes:
      width: channels.
      conv: makes convolutions, with bias unless told otherwise.
      norm: makes batch normalisations.
      reverse: whether attention turns the edge head away from what the third level is
        already sure of.
    """

    width: int
    conv: layers.Factory
    norm: layers.Factory
    reverse: bool = True

    @nn.compact
    def __call__(
        self, low1: jax.Array, low2: jax.Array, mid: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Maps levels 1, 2 and 3 to the joined map and to edge logits.

        Returns:
          ``[b, h, w, width]``, which the attention does not touch, and ``[b, h, w, 1]``
          in float32; both as large as ``low1``.
        """

        def branch(x, name):
            x = self.conv(self.width, 3, name=f"conv_{name}")(x)
            return self.norm(name=f"bn_{name}")(x)

        size1, size2 = low1.shape[1:3], low2.shape[1:3]
        joined = resize_to(branch(mid, "mid"), size2) + branch(low2, "low2")
        joined = resize_to(branch(nn.relu(joined), "fuse"), size1)
        joined = nn.relu(joined + branch(low1, "low1"))
        edge = joined
        if self.reverse:
            both = (mid.mean(-1, keepdims=True), mid.max(-1, keepdims=True))
            attention = self.conv(1, 7, use_bias=False, name="attention")
            weight = 1 - nn.sigmoid(attention(jnp.concatenate(both, axis=-1)))
            edge = joined * resize_to(weight, size1)
        edge = nn.relu(self.norm(name="edge_bn1")(edge))
        edge = self.conv(self.width, 3, use_bias=False, name="edge_conv1")(edge)
        edge = nn.relu(self.norm(name="edge_bn2")(edge))
        head = self.conv(1, 1, dtype=jnp.float32, name="edge_conv2")
        return joined, head(edge.astype(jnp.float32))


class SpatialAdaptiveFusion(nn.Module):
    """Adds the fine and the coarse evidence with weights of each pixel's own.

    The weights are not normalised. Attributes as of ``ReverseEdgeAttention``.

    Attributes:
      conv: makes convolutions, with bias unless told otherwise.
      norm: makes batch normalisations.
      adaptive: whether the weights are learnt; else the two are added.
      dtype: of the computation.
    """

    conv: layers.Factory
    norm: layers.Factory
    adaptive: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, low_mid: jax.Array, high: jax.Array) -> jax.Array:
        """Maps ``[b, 8h, 8w, c]`` and ``[b, h, w, c]`` to logits ``[b, 8h, 8w, 1]``."""

        def evidence(x, width, name):
            x = self.conv(width, 1, name=f"{name}_conv")(x)
            return self.norm(name=f"{name}_bn")(x)

        up = partial(Upsample, dtype=self.dtype)
        low = evidence(low_mid, _CLASSES, "low_mid")
        coarse = up(_CLASSES, name="high_up")(evidence(high, _CLASSES, "high"))
        if not self.adaptive:
            fused = coarse + low
        else:
            count = _CLASSES * _LAYERS
            prior = up(count, name="prior_up")(evidence(high, count, "prior"))
            w = nn.relu(evidence(prior, count, "weights1"))
            w = nn.relu(evidence(w, count, "weights2"))
            w = evidence(w, count, "weights3")
            # Channel 2k weighs the coarse evidence of class k, 2k + 1 the fine one.
            fused = w[..., 0::2] * coarse + w[..., 1::2] * low
        head = self.conv(1, 1, dtype=jnp.float32, name="head")
        return head(fused.astype(jnp.float32))


class Upsample(nn.Module):
    """A transposed convolution of kernel 16 and stride 8 that enlarges eightfold.

    Output pixel ``8 n + k - 4`` gets ``x[n] kernel[k]``, as in torch with padding 4.
    Every pixel hears of 2x2 inputs, so that it is one product of those with the kernel,
    which lies as that of the convolution it transposes: height, width, outputs, inputs.

    Attributes:
      width: output channels.
      dtype: of the computation.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[b, h, w, c]`` to ``[b, 8h, 8w, width]``."""
        batch, height, width, channels = x.shape
        # As torch draws it, whose fan counts the outputs.
        bound = (self.width * _KERNEL**2) ** -0.5

        def uniform(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        shape = (_KERNEL, _KERNEL, self.width, channels)
        kernel = self.param("kernel", uniform, shape).astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        # Block m of the output is x[m] kernel[:8] + x[m - 1] kernel[8:].
        seen = [
            x[:, 1 - down : height + 2 - down, 1 - across : width + 2 - across]
            for down in (0, 1)
            for across in (0, 1)
        ]
        split = kernel.reshape(2, _UP, 2, _UP, self.width, channels)
        split = split.transpose(0, 2, 5, 1, 3, 4).reshape(4 * channels, -1)
        blocks = jnp.concatenate(seen, axis=-1) @ split
        blocks = blocks.reshape(batch, height + 1, width + 1, _UP, _UP, self.width)
        whole = blocks.transpose(0, 1, 3, 2, 4, 5)
        whole = whole.reshape(batch, _UP * (height + 1), _UP * (width + 1), self.width)
        edge = (_KERNEL - _UP) // 2
        return whole[:, edge:-edge, edge:-edge]
