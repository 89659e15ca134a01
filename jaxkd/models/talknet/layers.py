"""Layers over the frames of clips of different lengths, as torch computes them.

``where`` marks the frames that are there; None: all are. Convolutions over time see
zeros beyond a clip's end, as at its beginning, and statistics count its frames alone.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

Where = jax.Array | None


def keep(x: jax.Array, where: Where) -> jax.Array:
    """Sets frames that are not there to zero: ``x [batch, time, ...]``."""
    if where is None:
        return x
    return jnp.where(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), x, 0)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, of the marked positions.

    The running variance takes up the unbiased one, as torch's does.

    Attributes:
      train: whether to use, and to update, the statistics of the batch.
      epsilon: added to the variance.
      momentum: part of the running statistics that a step keeps.
    """

    train: bool
    epsilon: float = layers.EPSILON
    momentum: float = layers.MOMENTUM

    @nn.compact
    def __call__(self, x: jax.Array, where: Where = None) -> jax.Array:
        """Maps ``[..., channels]`` to the same; ``where`` broadcasts to its left."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        now_mean, now_var = mean.value, var.value
        if self.train:
            now_mean, now_var, count = _moments(x, where)
            if not self.is_initializing():
                unbiased = now_var * count / jnp.maximum(count - 1, 1)
                m = self.momentum
                mean.value = m * mean.value + (1 - m) * now_mean
                var.value = m * var.value + (1 - m) * unbiased
        factor = jax.lax.rsqrt(now_var + self.epsilon) * scale
        return ((x - now_mean) * factor + bias).astype(x.dtype)


def _moments(x: jax.Array, where: Where) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns mean, biased variance and number of the marked values of a channel."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    total = x.size // x.shape[-1]
    count = jnp.asarray(total, jnp.float32)
    if where is not None:
        where = where.reshape(where.shape + (1,) * (x.ndim - where.ndim))
        # Each mark counts as often as it is repeated.
        count = jnp.maximum(jnp.sum(where) * (total / where.size), 1.0)
        x = jnp.where(where, x, 0)
    mean = jnp.sum(x, axes) / count
    apart = x - mean if where is None else jnp.where(where, x - mean, 0)
    return mean, jnp.sum(apart**2, axes) / count, count


class TemporalConv(nn.Module):
    """A convolution along time, as one product of shifted frames with the kernel.

    Attributes:
      width: output channels.
      size: of the kernel, odd; ``size // 2`` zeros pad either end.
      use_bias: whether to add a bias.
    """

    width: int
    size: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, time, channels]`` to ``[batch, time, width]``."""
        shape = (self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", layers.TORCH_UNIFORM, shape, jnp.float32)
        y = jnp.concatenate(_shifted(x, self.size), axis=-1)
        y = y @ kernel.reshape(-1, self.width)
        if self.use_bias:
            fan_in = self.size * x.shape[-1]
            y = y + self.param("bias", _uniform(fan_in), (self.width,), jnp.float32)
        return y


class DepthwiseConv(nn.Module):
    """A convolution of each channel along time, without bias.

    Attributes:
      size: of the kernel, odd; ``size // 2`` zeros pad either end.
    """

    size: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, time, channels]`` to the same shape."""
        shape = (self.size, 1, x.shape[-1])
        kernel = self.param("kernel", _uniform(self.size), shape, jnp.float32)
        parts = _shifted(x, self.size)
        return sum(part * cell for part, cell in zip(parts, kernel, strict=True))


def _shifted(x: jax.Array, size: int) -> list[jax.Array]:
    """Lists the neighbours of each frame, from the earliest that a kernel sees."""
    half = size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    return [padded[:, shift : shift + x.shape[1]] for shift in range(size)]


def _uniform(fan_in: int) -> Any:
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PReLU(nn.Module):
    """A ReLU whose slope below zero is one trained number."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps an array of any shape to the same shape."""
        slope = self.param("slope", nn.initializers.constant(0.25), (1,), jnp.float32)
        return jnp.where(x >= 0, x, slope * x)


class GlobalLayerNorm(nn.Module):
    """Normalises each clip over its channels and frames (arXiv:1809.07454)."""

    @nn.compact
    def __call__(self, x: jax.Array, where: Where = None) -> jax.Array:
        """Maps ``[batch, time, channels]`` to the same shape."""
        shape = x.shape[-1:]
        gamma = self.param("gamma", nn.initializers.ones, shape, jnp.float32)
        beta = self.param("beta", nn.initializers.zeros, shape, jnp.float32)
        seen = None if where is None else where[..., None]
        # At least one frame is counted: a clip without any has no statistics.
        if seen is not None:
            seen = seen | ~jnp.any(seen, axis=1, keepdims=True)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, where=seen)
        var = jnp.mean((x - mean) ** 2, axis=(1, 2), keepdims=True, where=seen)
        return gamma * (x - mean) * jax.lax.rsqrt(var + 1e-8) + beta


class SqueezeExcite(nn.Module):
    """Scales channels by a gate from their means over the map (arXiv:1709.01507).

    Attributes:
      reduction: channels per hidden unit.
    """

    reduction: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, where: Where = None) -> jax.Array:
        """Maps ``[batch, height, time, channels]``; ``where`` is ``[batch, time]``."""
        seen = None
        if where is not None:
            seen = (where | ~jnp.any(where, axis=1, keepdims=True))[:, None, :, None]
        mean = jnp.mean(x, axis=(1, 2), where=seen)
        channels = x.shape[-1]
        hidden = layers.Linear(max(channels // self.reduction, 1), name="fc1")(mean)
        gate = layers.Linear(channels, name="fc2")(nn.relu(hidden))
        return x * nn.sigmoid(gate)[:, None, None, :]


def max_pool(images: jax.Array) -> jax.Array:
    """Takes maxima of 3x3 windows, 2 apart, with a margin of one pixel.

    One axis after the other, which is fast to differentiate on CPU. Of equal values
    the gradient is shared.
    """
    for axis in (1, 2):
        margin = [(0, 0)] * 4
        margin[axis] = (1, 1)
        padded = jnp.pad(images, margin, constant_values=-jnp.inf)
        size = images.shape[axis]
        first, second, third = (
            jax.lax.slice_in_dim(padded, start, start + size, 2, axis)
            for start in range(3)
        )
        images = jnp.maximum(jnp.maximum(first, second), third)
    return images
