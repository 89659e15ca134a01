"""Parts of the U-Nets of EDM: resampling, embeddings of the noise, residual blocks.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv:2206.00364), appendix F.2, where the networks of Song et al. (arXiv:2011.13456)
and of Dhariwal and Nichol (arXiv:2105.05233) are one family.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.conv import conv_general_dilated

_GROUPS, _GROUP_CHANNELS = 32, 4  # Groups at most, and channels of each at least.


class Start(NamedTuple):
    """How a layer starts.

    Attributes:
      kernel: distribution of the weight.
      uniform_bias: whether the bias is uniform on ``±1/sqrt(fan in)``; else it is zero.
    """

    kernel: nn.initializers.Initializer
    uniform_bias: bool = False


class Starts(NamedTuple):
    """How the layers of a network start.

    Attributes:
      main: most of them.
      last: those at the end of a branch, or of the network.
      attention: those that make queries, keys and values.
    """

    main: Start
    last: Start
    attention: Start


def _xavier(variance: float = 1.0) -> Start:
    return Start(nn.initializers.variance_scaling(variance, "fan_avg", "uniform"))


SONG = Starts(_xavier(), _xavier(1e-10), _xavier(0.2))
_UNIFORM = Start(layers.TORCH_UNIFORM, uniform_bias=True)
DHARIWAL = Starts(_UNIFORM, Start(nn.initializers.zeros), _UNIFORM)


def conv(
    x: jax.Array,
    width: int,
    size: int,
    start: Start,
    *,
    dtype: Any,
    name: str,
    margin: int = 0,
) -> jax.Array:
    """Convolves with a new layer, padded by ``size // 2 + margin`` on every side.

    Args:
      x: ``[batch, height, width, channels]``.
      width: output channels.
      size: height and width of the kernel.
      start: how it starts.
      dtype: of the computation.
      name: of the layer.
      margin: pixels of padding beyond those that keep the size.
    """
    layer = nn.Conv(
        width,
        (size, size),
        padding=size // 2 + margin,
        kernel_init=start.kernel,
        bias_init=_bias_start(start, size * size * x.shape[-1]),
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        name=name,
    )
    return layer(x)


def dense(
    x: jax.Array, width: int, start: Start, *, name: str, use_bias: bool = True
) -> jax.Array:
    """Maps ``[batch, channels]`` to ``[batch, width]`` with a new layer, in float32."""
    bias_start = _bias_start(start, x.shape[-1])
    return nn.Dense(
        width, use_bias, kernel_init=start.kernel, bias_init=bias_start, name=name
    )(x)


def _bias_start(start: Start, fan_in: int) -> nn.initializers.Initializer:
    if not start.uniform_bias:
        return nn.initializers.zeros
    bound = fan_in**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return uniform


def norm(x: jax.Array, epsilon: float, *, dtype: Any, name: str) -> jax.Array:
    """Normalises over groups of channels with a new layer, in at least float32.

    There are 32 groups, or fewer so that each has at least 4 channels.
    """
    groups = min(_GROUPS, x.shape[-1] // _GROUP_CHANNELS)
    return nn.GroupNorm(
        groups, epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name
    )(x)


def downsample(
    x: jax.Array, taps: tuple[float, ...], padding: int | None = None
) -> jax.Array:
    """Halves height and width with the separable filter ``taps``, which is scaled to 1.

    Args:
      x: ``[batch, height, width, channels]``.
      taps: of even length.
      padding: zeros on every side; by default what halves the size.

    Returns:
      ``[batch, height / 2, width / 2, channels]``.
    """
    padding = (len(taps) - 1) // 2 if padding is None else padding
    for axis in (1, 2):
        padded = _pad(x, axis, padding)
        end = padded.shape[axis] - len(taps) + 1
        steps = range(len(taps))
        seen = [jax.lax.slice_in_dim(padded, i, i + end, 2, axis) for i in steps]
        x = _dot(_scaled(taps), seen)
    return x


def upsample(x: jax.Array, taps: tuple[float, ...]) -> jax.Array:
    """Doubles height and width: the transpose of ``downsample``, times 4.

    Args:
      x: ``[batch, height, width, channels]``.
      taps: of even length.

    Returns:
      ``[batch, 2 height, 2 width, channels]``.
    """
    for axis in (1, 2):
        size, reach = x.shape[axis], len(taps) // 2  # An output sees reach inputs.
        padded = _pad(x, axis, reach - 1)
        # Even and odd outputs see the even and the odd taps; the first tap the last.
        seen = [
            jax.lax.slice_in_dim(padded, i, i + size + reach - 1, 1, axis)
            for i in reversed(range(reach))
        ]
        taps2 = [2 * tap for tap in _scaled(taps)]
        both = jnp.stack([_dot(taps2[0::2], seen), _dot(taps2[1::2], seen)], axis + 1)
        shape = (*x.shape[:axis], 2 * (size + reach - 1), *x.shape[axis + 1 :])
        x = jax.lax.slice_in_dim(
            both.reshape(shape), reach - 1, reach - 1 + 2 * size, 1, axis
        )
    return x


def _pad(x: jax.Array, axis: int, width: int) -> jax.Array:
    return jnp.pad(x, [(width * (i == axis),) * 2 for i in range(x.ndim)])


def _scaled(taps: tuple[float, ...]) -> list[float]:
    return [tap / sum(taps) for tap in taps]


def _dot(weights: list[float], arrays: list[jax.Array]) -> jax.Array:
    products = [w * array for w, array in zip(weights, arrays, strict=True)]
    return sum(products[1:], start=products[0])


def positional(x: jax.Array, width: int, endpoint: bool) -> jax.Array:
    """Embeds ``[batch]`` in cosines, then sines, of periods up to 10000 turns.

    Args:
      x: ``[batch]``.
      width: of the result, ``[batch, width]``.
      endpoint: whether the slowest frequency is 1/10000 itself.
    """
    half = width // 2
    exponents = jnp.arange(half, dtype=x.dtype) / (half - endpoint)
    return _waves(x, 10000.0**-exponents)


class Fourier(nn.Module):
    """Embeds the noise in random frequencies, which training does not change.

    They are the constant ``freqs``, normal with standard deviation 16.

    Attributes:
      width: of the result.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch]`` to ``[batch, width]``: cosines, then sines."""

        def init():
            return 16 * jax.random.normal(self.make_rng("params"), (self.width // 2,))

        return _waves(x, 2 * jnp.pi * self.variable("constants", "freqs", init).value)


def _waves(x: jax.Array, frequencies: jax.Array) -> jax.Array:
    angles = x[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Style(NamedTuple):
    """What all blocks of a network have in common.

    Attributes:
      starts: initial distributions.
      adaptive: whether the embedding scales and shifts the normalised features; else
        it is added to them before the normalisation.
      skip_scale: what the sum of branch and shortcut is multiplied by.
      epsilon: of the normalisations.
      project: whether the shortcut of a block that changes the size is a convolution
        even where the channels stay as many.
      taps: filter of the resampling.
      dropout: probability.
      dtype: of the computation.
    """

    starts: Starts
    adaptive: bool
    skip_scale: float
    epsilon: float
    project: bool
    taps: tuple[float, ...]
    dropout: float
    dtype: Any


class Block(nn.Module):
    """A residual block that is told the noise, with resampling and self-attention.

    Attributes:
      width: output channels.
      style: what it has in common with the others.
      resample: "up", "down" or "" for neither.
      heads: of self-attention; 0 for none.
      train: whether to drop out; takes the random key ``dropout``.
    """

    width: int
    style: Style
    resample: str = ""
    heads: int = 0
    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        """Maps features ``[batch, h, w, c]``, told ``emb`` ``[batch, e]``, to others.

        Returns:
          ``[batch, h', w', width]``, with h and w halved, doubled or kept.
        """
        style = self.style
        h = self._resample(nn.silu(self._norm(x, "norm0")))
        h = self._conv(h, 3, style.starts.main, "conv0")
        h = nn.silu(self._tell(h, emb))
        h = nn.Dropout(style.dropout, deterministic=not self.train)(h)
        h = self._conv(h, 3, style.starts.last, "conv1")
        h = (h + self._shortcut(x)) * style.skip_scale
        return (h + self._attention(h)) * style.skip_scale if self.heads else h

    def _norm(self, x: jax.Array, name: str) -> jax.Array:
        return norm(x, self.style.epsilon, dtype=self.style.dtype, name=name)

    def _conv(self, x, size: int, start: Start, name: str, times: int = 1) -> jax.Array:
        width = self.width * times
        return conv(x, width, size, start, dtype=self.style.dtype, name=name)

    def _resample(self, x: jax.Array) -> jax.Array:
        if not self.resample:
            return x
        return (upsample if self.resample == "up" else downsample)(x, self.style.taps)

    def _tell(self, h: jax.Array, emb: jax.Array) -> jax.Array:
        """Tells the features the noise, and normalises them."""
        width = self.width * (2 if self.style.adaptive else 1)
        told = dense(emb, width, self.style.starts.main, name="affine")
        told = told[:, None, None].astype(h.dtype)
        if not self.style.adaptive:
            return self._norm(h + told, "norm1")
        scale, shift = jnp.split(told, 2, axis=-1)
        return self._norm(h, "norm1") * (scale + 1) + shift

    def _shortcut(self, x: jax.Array) -> jax.Array:
        y = self._resample(x)
        if x.shape[-1] != self.width or (self.resample and self.style.project):
            return self._conv(y, 1, self.style.starts.main, "skip")
        return y

    def _attention(self, h: jax.Array) -> jax.Array:
        """Attends to all pixels; the weights are computed in at least float32."""
        starts, (batch, *_, channels) = self.style.starts, h.shape
        qkv = self._conv(self._norm(h, "norm2"), 1, starts.attention, "qkv", times=3)
        # Query, key and value of a channel of a head lie side by side.
        split = qkv.reshape(batch, -1, self.heads, channels // self.heads, 3)
        q, k, v = (split[..., i] for i in range(3))
        full = jnp.promote_types(h.dtype, jnp.float32)
        k = k / (channels // self.heads) ** 0.5
        scores = jnp.einsum("bqhc,bkhc->bhqk", q.astype(full), k.astype(full))
        weights = nn.softmax(scores).astype(h.dtype)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(h.shape)
        return self._conv(mixed, 1, starts.last, "proj")
