"""The blocks of Stable Diffusion's U-Net, some of which the autoencoder shares."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.diffusion.attention import AttentionFn, Site
from jaxkd.models import layers
from jaxkd.models.conv import conv_general_dilated
from jaxkd.models.layers import conv
from jaxkd.models.stable_diffusion.attention import Attention

_LECUN = nn.initializers.lecun_normal()
conv_with_bias = functools.partial(conv, use_bias=True, init=_LECUN)


class ResidualBlock(nn.Module):
    """Two normalised convolutions, with the time's embedding added between them.

    Attributes:
      width: output channels.
      groups: of the norms.
      dtype: of the computation.
      epsilon: of the norms.
    """

    width: int
    groups: int
    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array | None = None) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to ``[batch, h, w, width]``."""
        norm = functools.partial(group_norm, self.groups, self.epsilon, self.dtype)
        h = jax.nn.silu(norm("norm1")(x))
        h = conv_with_bias(self.width, 3, dtype=self.dtype, name="conv1")(h)
        if emb is not None:
            shift = nn.Dense(self.width, dtype=self.dtype, name="time_emb_proj")
            h = h + shift(jax.nn.silu(emb))[:, None, None]
        h = jax.nn.silu(norm("norm2")(h))
        # Starts as the identity; a checkpoint's weights replace the zeros.
        h = conv(
            self.width,
            3,
            use_bias=True,
            init=nn.initializers.zeros,
            dtype=self.dtype,
            name="conv2",
        )(h)
        if x.shape[-1] != self.width:
            x = conv_with_bias(self.width, 1, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class Transformer(nn.Module):
    """Attention among pixels, from pixels to the text, and a gated perceptron.

    Attributes:
      site: where it stands; the kind is filled in.
      heads: of the attentions.
      depth: blocks.
      linear_projection: whether the projections are dense layers.
      groups: of the norm.
      dtype: of the computation.
    """

    site: Site
    heads: int
    depth: int
    linear_projection: bool
    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array, attn_fn: AttentionFn, state: Any
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Maps ``[batch, h, w, channels]``; also returns the sites' statistics."""
        shape, width, aux = x.shape, x.shape[-1], {}
        h = group_norm(self.groups, 1e-6, self.dtype, "norm")(x)
        h = self._project(h, "proj_in")
        for i in range(self.depth):
            h, found = TransformerBlock(
                self.site._replace(depth=i),
                self.heads,
                self.dtype,
                name=f"transformer_blocks_{i}",
            )(h, context, attn_fn, state)
            aux.update(found)
        return x + self._project(h.reshape(shape), "proj_out").reshape(
            *shape[:-1], width
        ), aux

    def _project(self, x: jax.Array, name: str) -> jax.Array:
        """Projects channels of a map; returns pixels in a row."""
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.linear_projection:
            return nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(rows)
        return conv_with_bias(x.shape[-1], 1, dtype=self.dtype, name=name)(x).reshape(
            rows.shape
        )


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and GEGLU, each after its norm and added.

    Attributes:
      site: where it stands.
      heads: of the attentions.
      dtype: of the computation.
    """

    site: Site
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array, attn_fn: AttentionFn, state: Any
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Maps ``[batch, pixels, width]``; also returns the sites' statistics."""
        aux, width = {}, x.shape[-1]
        for number, kind in ((1, "self"), (2, "cross")):
            site = self.site._replace(kind=kind)
            h = _layer_norm(self.dtype, f"norm{number}")(x)
            attend = Attention(site, self.heads, self.dtype, name=f"attn{number}")
            h, aux[site.name] = attend(
                h, h if kind == "self" else context, attn_fn, state
            )
            x = x + h
        h = _layer_norm(self.dtype, "norm3")(x)
        h = nn.Dense(8 * width, dtype=self.dtype, name="ff_net_0_proj")(h)
        value, gate = jnp.split(h, 2, axis=-1)
        h = value * jax.nn.gelu(gate, approximate=False)
        return x + nn.Dense(width, dtype=self.dtype, name="ff_net_2")(h), aux


class Downsample(nn.Module):
    """Halves a map by a 3x3 convolution of stride 2.

    Attributes:
      dtype: of the computation.
      far_side_only: whether zeros are added right and below only, as in the
        autoencoder, else all around.
    """

    dtype: Any = jnp.float32
    far_side_only: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to half the height and width."""
        return nn.Conv(
            x.shape[-1],
            (3, 3),
            (2, 2),
            padding=((0, 1), (0, 1)) if self.far_side_only else 1,
            conv_general_dilated=conv_general_dilated,
            dtype=self.dtype,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """Doubles a map by repeating pixels, and convolves it.

    Attributes:
      dtype: of the computation.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to twice the height and width."""
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return conv_with_bias(x.shape[-1], 3, dtype=self.dtype, name="conv")(x)


def group_norm(groups: int, epsilon: float, dtype: Any, name: str) -> nn.GroupNorm:
    """Makes a group normalisation."""
    return layers.GroupNorm(groups, epsilon=epsilon, dtype=dtype, name=name)


def _layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    return layers.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)
