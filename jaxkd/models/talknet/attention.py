"""Transformer layers with the norm after the sum, between two sequences or within one.

As torch's ``nn.TransformerEncoderLayer``, whose names their parameters have.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.talknet.layers import Where


class MultiHeadAttention(nn.Module):
    """Attention with one projection for query, key and value, as torch stores it.

    Attributes:
      heads: number of heads; divides the channels.
      dropout: rate, on the attention weights.
    """

    heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, query: jax.Array, key: jax.Array, where: Where, train: bool
    ) -> jax.Array:
        """Maps ``[batch, q, c]`` and ``[batch, k, c]`` to ``[batch, q, c]``.

        Args:
          query: what asks.
          key: what is asked, and gives the values.
          where: ``[batch, k]``, keys that are there.
          train: whether dropout is on.
        """
        width = query.shape[-1]
        if width % self.heads:
            raise ValueError(
                f"{width} channels do not divide among {self.heads} heads; choose "
                "widths that are multiples of heads."
            )
        kernel = self.param(
            "in_proj_kernel", nn.initializers.xavier_uniform(), (width, 3 * width)
        )
        bias = self.param("in_proj_bias", nn.initializers.zeros, (3 * width,))
        parts = [slice(part * width, (part + 1) * width) for part in range(3)]
        q, k, v = (
            self._split(x @ kernel[:, part] + bias[part])
            for x, part in zip((query, key, key), parts, strict=True)
        )
        weights = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        if where is not None:
            low = jnp.finfo(weights.dtype).min
            weights = jnp.where(where[:, None, None, :], weights, low)
        weights = nn.Dropout(self.dropout, deterministic=not train)(
            jax.nn.softmax(weights)
        )
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        mixed = mixed.reshape(query.shape)
        return layers.Linear(width, zero_bias=True, name="out_proj")(mixed)

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class AttentionLayer(nn.Module):
    """Attention to a source, added to that source, and two dense layers.

    The query is the *target* and the sum is with the *source*: at each frame, what the
    other modality says there chooses from the own sequence.

    Attributes:
      heads: of the attention.
      hidden: units of the first dense layer; None: four times the channels.
      dropout: rate.
    """

    heads: int = 8
    hidden: int | None = None
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, source: jax.Array, target: jax.Array, where: Where, train: bool
    ) -> jax.Array:
        """Maps ``[batch, time, channels]``, twice, to the same shape."""
        width = source.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        seen = MultiHeadAttention(self.heads, self.dropout, name="self_attn")(
            target, source, where, train
        )
        x = layers.LayerNorm(1e-5, name="norm1")(source + drop(seen))
        y = layers.Linear(self.hidden or 4 * width, name="linear1")(x)
        y = layers.Linear(width, name="linear2")(drop(nn.relu(y)))
        return layers.LayerNorm(1e-5, name="norm2")(x + drop(y))
