"""Layers that start and compute as torch's do, for networks of published recipes.

Published distillation results were obtained in PyTorch. These helpers fix what differs
from Flax's defaults: symmetric padding, initial distributions, and the momentum,
epsilon and running variance of batch normalisation.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.conv import conv_general_dilated

# Normal with variance 2 / (kernel area x outputs): the recipe of ResNets.
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform on ±1/sqrt(fan in): what torch does when a recipe says nothing.
TORCH_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

MOMENTUM = 0.9
EPSILON = 1e-5


def conv(
    width: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    use_bias: bool = False,
    init: nn.initializers.Initializer = HE_FAN_OUT,
    dtype: Any = jnp.float32,
    name: str,
) -> nn.Conv:
    """Makes a convolution, padded by ``size // 2`` on every side.

    Flax's ``SAME`` pads only the far side of even-sized images when the stride is 2.

    Args:
      width: output channels.
      size: height and width of the kernel.
      stride: in pixels.
      groups: parts that the channels are split into; input channels for a depthwise
        convolution.
      use_bias: whether to add a bias, which starts at zero.
      init: distribution of the initial kernel.
      dtype: of the computation.
      name: of the layer.
    """
    return nn.Conv(
        width,
        (size, size),
        (stride, stride),
        padding=size // 2,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=init,
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        name=name,
    )


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    Under a sharded batch the statistics are those of the global batch, as in
    synchronised batch norm. They are at least float32 whatever the dtype of the
    computation.

    Attributes:
      train: whether to use, and to update, the statistics of the batch.
      unbiased_variance: whether the running variance takes up the batch's variance
        with Bessel's correction, as torch's does; matters for small batches and small
        maps. The normalisation itself takes the biased one in either case.
      momentum: part of the running statistics that a step keeps.
      dtype: of the result.
    """

    train: bool
    unbiased_variance: bool = False
    momentum: float = MOMENTUM
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., channels]`` to the same shape."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        now_mean, now_var = mean.value, var.value
        if self.train:
            now_mean, now_var = moments(x)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = count / max(count - 1, 1)  # of a single value: 0 anyway
                correction = unbiased if self.unbiased_variance else 1.0
                keep = self.momentum
                mean.value = keep * mean.value + (1 - keep) * now_mean
                var.value = keep * var.value + (1 - keep) * correction * now_var
        factor = jax.lax.rsqrt(now_var + EPSILON) * scale
        return ((x - now_mean) * factor + bias).astype(self.dtype)


# Flax's, with the variance of ``moments``.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)
GroupNorm = functools.partial(nn.GroupNorm, use_fast_variance=False)


def moments(x: jax.Array, where: jax.Array | None = None) -> tuple[jax.Array, ...]:
    """Computes mean and biased variance of each channel, in two passes over ``x``.

    The mean square less the squared mean takes one pass, but loses the variance to
    rounding where it is small beside the mean: at 300 standard deviations from zero
    half a percent of it, at 3,000 all. Flax's own layers do so unless they are given
    ``use_fast_variance=False``. On CPU both take as long; sharded, this takes a second
    sum over the devices, of one number a channel.

    Args:
      x: ``[..., channels]``; of a sharded batch all of it counts.
      where: marks what counts, at least one value; broadcasts to ``x``.

    Returns:
      ``[channels]`` each, at least float32.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes, where=where)
    return mean, jnp.mean((x - mean) ** 2, axes, where=where)


class Linear(nn.Module):
    """A dense layer in at least float32.

    Attributes:
      width: number of outputs.
      kernel_std: standard deviation of the initial weight, which is then normal; None
        takes it uniform on ``±1/sqrt(inputs)``, as torch does.
      zero_bias: whether the bias starts at zero; else it is uniform likewise.
    """

    width: int
    kernel_std: float | None = None
    zero_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., inputs]`` to ``[..., width]``."""
        bound = x.shape[-1] ** -0.5

        def uniform(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        normal = nn.initializers.normal(self.kernel_std or 0.0)
        kernel_init = uniform if self.kernel_std is None else normal
        bias_init = nn.initializers.zeros if self.zero_bias else uniform
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.width))
        bias = self.param("bias", bias_init, (self.width,))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) @ kernel + bias


Factory = Callable[..., Any]


def factories(
    train: bool,
    unbiased_variance: bool,
    dtype: Any,
    init: nn.initializers.Initializer = HE_FAN_OUT,
) -> tuple[Factory, Factory]:
    """Returns ``conv`` and ``BatchNorm`` with what a whole network has in common."""
    return (
        functools.partial(conv, init=init, dtype=dtype),
        functools.partial(
            BatchNorm, train=train, unbiased_variance=unbiased_variance, dtype=dtype
        ),
    )


def subsample(x: jax.Array, stride: int) -> jax.Array:
    """Keeps the first of every ``stride`` rows and columns.

    A 1x1 convolution of stride 1 after it is the same map as a strided one, and costs
    half as much to differentiate on CPU.
    """
    return x[:, ::stride, ::stride]


def global_mean(x: jax.Array) -> jax.Array:
    """Averages ``[batch, h, w, c]`` over the pixels, in at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.mean(x, axis=(1, 2))


def shuffle_channels(x: jax.Array, groups: int) -> jax.Array:
    """Deals out channels, so that the next grouped convolution sees some of each group.

    Output channel ``j * groups + i`` is input channel ``i * channels / groups + j``.
    """
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(split, -1, -2).reshape(x.shape)
