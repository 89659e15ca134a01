"""Gemma's decoder with a prefix that sees itself whole, and a cache of keys and values.

Gemma Team, "Gemma: Open Models Based on Gemini Research and Technology"
(arXiv:2403.08295, section 2): RMS norms, rotary positions, one head of keys and values,
gated MLPs, an embedding table that is the output layer, too. Parameters have the names
and the stacked layers of big_vision's checkpoints.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.paligemma import lora
from jaxkd.models.paligemma.config import PaliGemmaConfig

EPSILON = 1e-6
ROPE_BASE = 10_000.0

# Keys and values of every layer, each [layers, batch, slots, kv_heads, head_dim].
Cache = tuple[jax.Array, jax.Array]


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotates pairs of features by their positions (RoPE, arXiv:2104.09864).

    Feature ``i`` of the first half is paired with feature ``i`` of the second, and
    turned by ``position * 10000^(-2i / head_dim)``.

    Args:
      x: ``[batch, length, heads, head_dim]``.
      positions: integers ``[batch, length]``.

    Returns:
      As ``x``; computed in float32.
    """
    half = x.shape[-1] // 2
    rates = ROPE_BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * rates
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def prefix_mask(causal: jax.Array, valid: jax.Array) -> jax.Array:
    """Makes the mask of a prefix-LM: who may attend to whom.

    ``allow(i, j)`` iff both are real tokens and ``c_j <= c_i``, where ``c`` counts the
    causal tokens so far. So the prefix sees all of itself and nothing of the suffix,
    and each token of the suffix sees the prefix and the suffix up to itself.

    Args:
      causal: bool ``[batch, length]``, True on tokens of the suffix.
      valid: bool ``[batch, length]``, False on padding, wherever it stands.

    Returns:
      bool ``[batch, length, length]``, rows attend to columns.
    """
    order = jnp.cumsum(causal, axis=1)
    seen = order[:, None, :] <= order[:, :, None]
    return seen & valid[:, None, :] & valid[:, :, None]


def positions_of(valid: jax.Array) -> jax.Array:
    """Numbers the real tokens of each row from 0; ``[batch, length]``."""
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


class Gemma(nn.Module):
    """The decoder: embeds tokens, runs the blocks, and gives logits.

    Attributes:
      config: sizes and dtype.
    """

    config: PaliGemmaConfig

    def setup(self):
        """Makes the embedding table, the scanned blocks and the last norm."""
        self.embedder = _Embedder(self.config)
        block: Any = Block
        if self.config.remat:
            block = nn.remat(
                block,
                prevent_cse=False,
                static_argnums=(6,),
                policy=jax.checkpoint_policies.nothing_saveable,
            )
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, 0, nn.broadcast, nn.broadcast),
            length=self.config.text.depth,
        )(self.config)
        self.final_norm = RMSNorm()

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Embeds tokens ``[batch, length]``, scaled by the root of the width."""
        return self.embedder.encode(tokens)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Computes float32 logits ``[..., vocabulary]`` with the embedding table."""
        return self.embedder.decode(hidden)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        train: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """Runs the blocks on embedded tokens.

        Args:
          x: ``[batch, length, width]``.
          positions: ``[batch, length]``.
          mask: bool ``[batch, length, slots]``; ``slots`` are those of the cache, or
            ``length`` without one.
          cache: earlier keys and values.
          index: slot of the cache where those of ``x`` begin.
          train: whether adapters drop inputs.

        Returns:
          The hidden states after the last norm, and the cache with ``x`` in it.
        """
        x, cache = self.layers(x, positions, mask, cache, index, train)
        return self.final_norm(x), cache


class Block(nn.Module):
    """One block: attention, then a gated MLP, each after a norm and with a residual.

    Attributes:
      config: sizes and dtype.
    """

    config: PaliGemmaConfig

    @nn.compact
    def __call__(self, x, positions, mask, cache, index, train: bool):
        """Runs the block; see ``Gemma``. The cache is this layer's alone."""
        y = RMSNorm(name="pre_attention_norm")(x)
        y, cache = _Attention(self.config, name="attn")(
            y, positions, mask, cache, index, train
        )
        x = x + y
        y = RMSNorm(name="pre_ffw_norm")(x)
        return x + _Mlp(self.config, name="mlp")(y, train), cache


class RMSNorm(nn.Module):
    """Divides by the root mean square and multiplies by ``1 + scale``, in float32."""

    @nn.compact
    def __call__(self, x):
        """Normalises the last axis."""
        scale = self.param("scale", nn.initializers.zeros_init(), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(variance + EPSILON)
        return (wide * (1 + scale.astype(jnp.float32))).astype(x.dtype)


class _Embedder(nn.Module):
    config: PaliGemmaConfig

    def setup(self):
        sizes = self.config.text
        init = _fan_in(in_axis=1, out_axis=0, distribution="normal")
        self.input_embedding = self.param(
            "input_embedding", init, (sizes.vocabulary, sizes.width)
        )

    def encode(self, tokens):
        dtype = jnp.dtype(self.config.dtype)
        x = self.input_embedding[tokens].astype(dtype)
        # In bfloat16 the factor is rounded first, as in the published model.
        return x * jnp.sqrt(jnp.float32(self.config.text.width)).astype(dtype)

    def decode(self, hidden):
        table = self.input_embedding.astype(hidden.dtype)
        return jnp.einsum(
            "...d,vd->...v", hidden, table, preferred_element_type=jnp.float32
        )


class _Einsum(nn.Module):
    shape: tuple[int, ...]
    equation: str
    init: Any

    @nn.compact
    def __call__(self, x):
        return jnp.einsum(
            self.equation, x, self.param("w", self.init, self.shape).astype(x.dtype)
        )


class _Adapted(nn.Module):
    config: PaliGemmaConfig

    def _adapt(self, name: str, x, train: bool, inputs: int = 1):
        dropout = self.config.lora_dropout
        if not self.has_variable("params", f"lora_{name}"):
            return 0.0
        return lora.delta(
            self.get_variable("params", f"lora_{name}"),
            x,
            inputs=inputs,
            alpha=self.config.lora_alpha,
            dropout=dropout,
            key=self.make_rng("dropout") if train and dropout else None,
        )


class _Attention(_Adapted):
    @nn.compact
    def __call__(self, x, positions, mask, cache, index, train: bool):
        sizes = self.config.text
        width, heads, groups = sizes.width, sizes.heads, sizes.kv_heads
        query = _Einsum(
            (heads, width, sizes.head_dim),
            "btd,hdk->bthk",
            _fan_in(in_axis=1, out_axis=(0, 2)),
            name="q_einsum",
        )(x) + self._adapt("q", x, train)
        key, value = _Einsum(
            (2, groups, width, sizes.head_dim),
            "btd,chdk->cbthk",
            _fan_in(in_axis=2, out_axis=(1, 3), batch_axis=0),
            name="kv_einsum",
        )(x)
        key = rotate(key + self._adapt("k", x, train), positions)
        value = value + self._adapt("v", x, train)
        if cache is not None:
            start = (0, index, 0, 0)
            key, value = (
                jax.lax.dynamic_update_slice(old, new.astype(old.dtype), start)
                for old, new in zip(cache, (key, value), strict=True)
            )
        y = jax.nn.dot_product_attention(
            rotate(query, positions),
            key.astype(x.dtype),
            value.astype(x.dtype),
            mask=mask[:, None],
            scale=sizes.head_dim**-0.5,
        )
        out = _Einsum(
            (heads, sizes.head_dim, width),
            "bthk,hkd->btd",
            _fan_in(in_axis=(0, 1), out_axis=2),
            name="attn_vec_einsum",
        )(y) + self._adapt("o", y, train, inputs=2)
        return out, (key, value)


class _Mlp(_Adapted):
    @nn.compact
    def __call__(self, x, train: bool):
        sizes = self.config.text
        gating = self.param(
            "gating_einsum",
            _fan_in(in_axis=1, out_axis=2, batch_axis=0),
            (2, sizes.width, sizes.mlp),
        ).astype(x.dtype)
        linear = self.param(
            "linear", _fan_in(in_axis=0, out_axis=1), (sizes.mlp, sizes.width)
        ).astype(x.dtype)
        gate = x @ gating[0] + self._adapt("gate", x, train)
        up = x @ gating[1] + self._adapt("up", x, train)
        y = nn.gelu(gate, approximate=True) * up
        return y @ linear + self._adapt("down", y, train)


def _fan_in(
    *, in_axis, out_axis, batch_axis=(), distribution="truncated_normal"
) -> nn.initializers.Initializer:
    return nn.initializers.variance_scaling(
        1.0, "fan_in", distribution, in_axis, out_axis, batch_axis
    )
