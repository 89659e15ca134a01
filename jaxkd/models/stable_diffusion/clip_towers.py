"""The transformers of CLIP: of texts and of images."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

# In configurations written before the end token's number was: take the largest number.
LEGACY_EOS = 2


def quick_gelu(x: jax.Array) -> jax.Array:
    """Computes ``x sigmoid(1.702 x)``, the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


class EncoderLayer(nn.Module):
    """Maps tokens by pre-normalised self-attention and a two-layer perceptron.

    Attributes:
      heads: of the attention.
      mlp_width: of the perceptron.
      activation: a name in ``ACTIVATIONS``.
      causal: whether a token sees only those before it and itself.
      dtype: of the computation.
    """

    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, tokens, width]`` to the same shape."""
        h = _norm(self.dtype, "layer_norm1")(x)
        x = x + SelfAttention(self.heads, self.causal, self.dtype, name="self_attn")(h)
        h = _norm(self.dtype, "layer_norm2")(x)
        h = nn.Dense(self.mlp_width, dtype=self.dtype, name="mlp_fc1")(h)
        h = ACTIVATIONS[self.activation](h)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_fc2")(h)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases on all four projections.

    Attributes:
      heads: into which the width is split.
      causal: whether a token sees only those before it and itself.
      dtype: of the computation; the softmax is at least float32.
    """

    heads: int
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, tokens, width]`` to the same shape."""
        q, k, v = (
            nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(x).reshape(
                *x.shape[:-1], self.heads, -1
            )
            for name in ("q_proj", "k_proj", "v_proj")
        )
        out = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out_proj")(
            out.reshape(x.shape)
        )


class TextModel(nn.Module):
    """The transformer of the text tower; see ``ClipTextEncoder`` for the attributes."""

    vocab_size: int
    positions: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    causal: bool
    eos_id: int
    dtype: Any

    @nn.compact
    def __call__(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps ``[batch, tokens]`` to the last hidden states and the pooled one."""
        embed = nn.Embed(
            self.vocab_size,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="embeddings_token_embedding",
        )
        places = nn.Embed(
            self.positions,
            self.width,
            embedding_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="embeddings_position_embedding",
        )
        x = embed(ids) + places(jnp.arange(ids.shape[1]))
        for i in range(self.layers):
            x = EncoderLayer(
                self.heads,
                self.mlp_width,
                self.activation,
                self.causal,
                self.dtype,
                name=f"encoder_layers_{i}",
            )(x)
        x = _norm(self.dtype, "final_layer_norm")(x)
        ends = ids if self.eos_id == LEGACY_EOS else ids == self.eos_id
        pooled = jnp.take_along_axis(
            x, jnp.argmax(ends, axis=1)[:, None, None], axis=1
        )[:, 0]
        return x, pooled


class VisionModel(nn.Module):
    """The transformer of the image tower; see ``ClipImageEncoder`` for attributes."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps images to the hidden states and the pooled class token."""
        patches = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            (self.patch_size, self.patch_size),
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            name="embeddings_patch_embedding",
        )(images)
        patches = patches.reshape(len(images), -1, self.width)
        token = self.param(
            "embeddings_class_embedding", nn.initializers.normal(0.02), (self.width,)
        )
        token = jnp.broadcast_to(token, (len(images), 1, self.width))
        x = jnp.concatenate([token.astype(patches.dtype), patches], axis=1)
        count = (self.image_size // self.patch_size) ** 2 + 1
        x = x + nn.Embed(
            count,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="embeddings_position_embedding",
        )(jnp.arange(count))
        # The published checkpoints spell it so.
        x = _norm(self.dtype, "pre_layrnorm")(x)
        for i in range(self.layers):
            x = EncoderLayer(
                self.heads,
                self.mlp_width,
                self.activation,
                False,
                self.dtype,
                name=f"encoder_layers_{i}",
            )(x)
        return x, _norm(self.dtype, "post_layernorm")(x[:, 0])


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return layers.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


def check_ids(ids: jax.Array, positions: int) -> None:
    """Raises ValueError for more tokens than there are positions."""
    if ids.ndim != 2 or ids.shape[1] > positions:
        raise ValueError(
            f"Token numbers of shape {ids.shape}; expected [batch, tokens] with at "
            f"most {positions} tokens. Shorten the prompt."
        )
