"""The attention layers of networks that read text lines."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.models import layers
from jaxkd.models.conv import conv_general_dilated


def sinusoids(length: int, width: int) -> jax.Array:
    """Makes the sinusoidal position codes of transformers, ``[length, width]``."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    codes = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return jnp.asarray(codes.reshape(length, -1)[:, :width], jnp.float32)


class Attention(nn.Module):
    """Attention with several heads, in float32.

    Attributes:
      heads: which divide the width.
    """

    heads: int

    @nn.compact
    def __call__(self, queries: jax.Array, memory: jax.Array) -> jax.Array:
        """Maps ``[batch, q, width]``, looking at ``[batch, k, width]``, to the former.

        Raises:
          ValueError: if the heads do not divide the width.
        """
        width = queries.shape[-1]
        if width % self.heads:
            raise ValueError(
                f"the width is {width}, expected a multiple of {self.heads} heads."
            )

        def split(x, name):
            x = layers.Linear(width, name=name)(x)
            return x.reshape(*x.shape[:2], self.heads, width // self.heads)

        q, k, v = split(queries, "query"), split(memory, "key"), split(memory, "value")
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])
        mixed = jnp.einsum("bhqk,bkhc->bqhc", nn.softmax(scores), v)
        return layers.Linear(width, name="out")(mixed.reshape(queries.shape))


class EncoderLayer(nn.Module):
    """A layer of a transformer: attention, then two dense layers, each with a skip.

    Attributes:
      heads: of the attention.
      hidden: width between the dense layers.
      dropout: of both branches.
      train: whether to drop out.
      norm_first: whether to normalise before each branch (ViT, with GELU) instead of
        after each sum (the original, with ReLU).
    """

    heads: int
    hidden: int
    dropout: float
    train: bool
    norm_first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, positions, width]`` to the same shape."""
        before, after = (norm, _same) if self.norm_first else (_same, norm)
        y = before(x, "norm1")
        y = Attention(self.heads, name="attention")(y, y)
        x = after(x + self._drop(y), "norm1")
        y = before(x, "norm2")
        y = layers.Linear(self.hidden, name="dense1")(y)
        y = nn.gelu(y, approximate=False) if self.norm_first else nn.relu(y)
        y = layers.Linear(x.shape[-1], name="dense2")(self._drop(y))
        return after(x + self._drop(y), "norm2")

    def _drop(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.dropout, deterministic=not self.train)(x)


def norm(x: jax.Array, name: str) -> jax.Array:
    """Normalises the channels of each position."""
    return nn.LayerNorm(1e-5, use_fast_variance=False, name=name)(x)


def _same(x: jax.Array, name: str) -> jax.Array:
    del name
    return x


class PositionAttention(nn.Module):
    """Looks with one query per slot at a map, whose keys come out of a small U-Net.

    Attributes:
      slots: queries, which are position codes behind a dense layer.
      width: channels of the U-Net.
      levels: the first halves the width, the others both sides.
      train: whether to use batch statistics.
    """

    slots: int
    width: int
    levels: int
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns vectors ``[batch, slots, c]`` and attention ``[batch, slots, h, w]``.

        Args:
          x: ``[batch, h, w, c]``.
        """
        batch, height, width, channels = x.shape
        levels, k = [], x
        for index in range(self.levels):
            stride = (2, 2) if index else (1, 2)
            k = self._conv(k, self.width, stride, f"down{index}")
            levels.append(k)
        for index, level in enumerate(reversed(levels[:-1])):
            k = _nearest(k, (level.shape[1], level.shape[2]))
            k = level + self._conv(k, self.width, (1, 1), f"up{index}")
        k = _nearest(k, (height, width))
        k = self._conv(k, channels, (1, 1), f"up{len(levels) - 1}")
        q = layers.Linear(channels, name="project")(sinusoids(self.slots, channels))
        scores = jnp.einsum("tc,bhwc->bthw", q, k) / math.sqrt(channels)
        scores = nn.softmax(scores.reshape(batch, self.slots, -1))
        vectors = jnp.einsum("btp,bpc->btc", scores, x.reshape(batch, -1, channels))
        return vectors, scores.reshape(batch, self.slots, height, width)

    def _conv(self, x, width: int, stride: tuple[int, int], name: str) -> jax.Array:
        x = nn.Conv(
            width,
            (3, 3),
            stride,
            padding=1,
            kernel_init=layers.TORCH_UNIFORM,
            conv_general_dilated=conv_general_dilated,
            name=f"{name}_conv",
        )(x)
        return nn.relu(layers.BatchNorm(self.train, True, name=f"{name}_bn")(x))


def _nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "nearest")
