"""The UNet of latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

With its defaults it is Stable Diffusion 1.x's, of 859,520,964 parameters; attributes
make it that of 2.x, of inpainting and of latent consistency models, or a tiny one.
Modules are named after the keys of published checkpoints.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.diffusion import noise_tables
from jaxkd.diffusion.attention import AttentionFn, Site, plain_attention
from jaxkd.models.layers import conv
from jaxkd.models.stable_diffusion.unet_blocks import (
    Downsample,
    ResidualBlock,
    Transformer,
    Upsample,
    conv_with_bias,
    group_norm,
)


def timestep_embedding(timesteps: jax.Array, width: int) -> jax.Array:
    """Embeds timesteps ``[batch]`` as ``[cos(t f), sin(t f)]``, at least float32.

    ``f_i = exp(-i ln(10000) / half)`` with ``half = width / 2`` frequencies.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half) / half)
    angles = jnp.asarray(timesteps, jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def guidance_embedding(scale: jax.Array, width: int = 256) -> jax.Array:
    """Embeds guidance scales ``[batch]`` for latent consistency models, ``[batch,
    width]``.

    ``[sin(v f), cos(v f)]`` with ``v = 1000 (scale - 1)`` and
    ``f_i = exp(-i ln(10000) / (half - 1))`` (arXiv 2310.04378): the sine first, and
    another divisor than the timesteps' have.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - 1))
    angles = 1000.0 * (jnp.asarray(scale, jnp.float32)[:, None] - 1) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class _Given(NamedTuple):
    """What every block is given, and where its statistics are collected."""

    emb: jax.Array
    context: jax.Array
    attn_fn: AttentionFn
    state: Any
    aux: dict[str, Any]


class UNet(nn.Module):
    """Predicts the noise in latents, given timesteps and the hidden states of a text.

    Attributes:
      in_channels: of the latents; 9 for inpainting (latents, mask, masked image).
      out_channels: of the prediction.
      widths: of the levels, each of half the size of the one before it.
      layers_per_block: residual blocks on the way down; one more on the way up.
      attention: for each level, whether a transformer follows each residual block.
      heads: for each level; in published configurations under the misleading name
        ``attention_head_dim``.
      context_width: of the hidden states of the text.
      linear_projection: whether a transformer projects by dense layers (2.x), else by
        1x1 convolutions; the same map, but other shapes in files.
      depth: attention blocks of each transformer.
      groups: of the group norms.
      guidance_width: of the embedded guidance scale of latent consistency models; None
        where the network has no such input.
      predicts: "noise", or "velocity" (arXiv 2202.00512) as Stable Diffusion 2.1 does;
        the result is the noise in either case.
      remat: whether to compute each block again for its gradient, which saves memory.
      dtype: of the computation; norms and softmax are at least float32.
    """

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    context_width: int = 768
    linear_projection: bool = False
    depth: int = 1
    groups: int = 32
    guidance_width: int | None = None
    predicts: str = "noise"
    remat: bool = False
    dtype: Any = jnp.float32

    def __call__(
        self,
        latents: jax.Array,
        timesteps: jax.Array | int,
        context: jax.Array,
        guidance: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts the noise; see ``controlled`` for the arguments."""
        return self.controlled(latents, timesteps, context, guidance=guidance)[0]

    @nn.compact
    def controlled(
        self,
        latents: jax.Array,
        timesteps: jax.Array | int,
        context: jax.Array,
        attn_fn: AttentionFn = plain_attention,
        state: Any = None,
        guidance: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Predicts the noise with attention computed by ``attn_fn``.

        Args:
          latents: ``[batch, height, width, in_channels]``.
          timesteps: ``[batch]`` or a scalar, of 0 to 999, whole or between.
          context: hidden states of the text ``[batch, tokens, context_width]``.
          attn_fn: see ``attention``; a static function.
          state: pytree that ``attn_fn`` is given.
          guidance: embedded scale ``[batch, guidance_width]``.

        Returns:
          The prediction ``[batch, height, width, out_channels]``, at least float32, and
          the statistics of ``attn_fn`` by the names of their sites.

        Raises:
          ValueError: for shapes that do not fit.
        """
        self._check(latents, context, guidance)
        wide = jnp.promote_types(latents.dtype, jnp.float32)
        emb = self._embed(timesteps, latents.shape[0], guidance)
        given = _Given(emb, context.astype(self.dtype), attn_fn, state, {})
        x = latents.astype(self.dtype)
        x = conv_with_bias(self.widths[0], 3, dtype=self.dtype, name="conv_in")(x)
        skips, last = [x], len(self.widths) - 1
        for i in range(len(self.widths)):
            for j in range(self.layers_per_block):
                x = self._block(x, given, "down", i, j, level=i)
                skips.append(x)
            if i < last:
                x = Downsample(self.dtype, name=f"down_blocks_{i}_downsamplers_0")(x)
                skips.append(x)
        x = self._block(x, given, "mid", 0, 0, level=last)
        x = self._block(x, given, "mid", 0, 1, level=last)
        for i in range(len(self.widths)):
            for j in range(self.layers_per_block + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._block(x, given, "up", i, j, level=last - i)
            if i < last:
                x = Upsample(self.dtype, name=f"up_blocks_{i}_upsamplers_0")(x)
        x = group_norm(self.groups, 1e-5, self.dtype, "conv_norm_out")(x)
        x = conv(
            self.out_channels,
            3,
            use_bias=True,
            init=nn.initializers.zeros,
            dtype=self.dtype,
            name="conv_out",
        )(jax.nn.silu(x))
        x = self._as_noise(x.astype(wide), latents, timesteps)
        return x, {k: v for k, v in given.aux.items() if v is not None}

    def _as_noise(self, x, latents, timesteps):
        if self.predicts == "noise":
            return x
        # Samplers may stop between two timesteps: linear in log alpha there, as the
        # clocks of jaxkd.diffusion are.
        table = jnp.log(noise_tables.alphas_cumprod())
        places = jnp.asarray(timesteps, jnp.float32)
        alpha = jnp.exp(jnp.interp(places, jnp.arange(len(table)), table))
        alpha = jnp.broadcast_to(alpha, x.shape[:1])[:, None, None, None]
        noisy = latents[..., : self.out_channels].astype(x.dtype)
        return jnp.sqrt(alpha) * x + jnp.sqrt(1 - alpha) * noisy

    def _embed(
        self, timesteps: jax.Array | int, batch: int, guidance: jax.Array | None
    ) -> jax.Array:
        width = self.widths[0]
        emb = timestep_embedding(jnp.broadcast_to(timesteps, (batch,)), width)
        emb = emb.astype(self.dtype)
        if self.guidance_width and (guidance is not None or self.is_initializing()):
            if guidance is None:
                guidance = jnp.zeros((batch, self.guidance_width))
            emb = emb + nn.Dense(
                width, use_bias=False, dtype=self.dtype, name="time_embedding_cond_proj"
            )(guidance.astype(self.dtype))
        dense = functools.partial(nn.Dense, 4 * width, dtype=self.dtype)
        emb = jax.nn.silu(dense(name="time_embedding_linear_1")(emb))
        return dense(name="time_embedding_linear_2")(emb)

    def _module(self, kind: type[nn.Module], static: tuple[int, ...] = ()) -> Callable:
        return nn.remat(kind, static_argnums=static) if self.remat else kind

    def _block(
        self,
        x: jax.Array,
        given: "_Given",
        place: str,
        block: int,
        layer: int,
        *,
        level: int,
    ) -> jax.Array:
        """Applies a residual block and, where there is one, its transformer."""
        prefix = "mid_block" if place == "mid" else f"{place}_blocks_{block}"
        x = self._module(ResidualBlock)(
            self.widths[level],
            self.groups,
            self.dtype,
            name=f"{prefix}_resnets_{layer}",
        )(x, given.emb)
        # In the middle one transformer stands between two residual blocks.
        if layer == 0 if place == "mid" else self.attention[level]:
            x, found = self._module(Transformer, (3,))(
                Site(place, block, layer, 0, "self", *x.shape[1:3]),
                self.heads[level],
                self.depth,
                self.linear_projection,
                self.groups,
                self.dtype,
                name=f"{prefix}_attentions_{layer}",
            )(x, given.context, given.attn_fn, given.state)
            given.aux.update(found)
        return x

    def _check(self, latents, context, guidance) -> None:
        factor = 2 ** (len(self.widths) - 1)
        height, width = latents.shape[1:3] if latents.ndim == 4 else (0, 0)
        if (
            latents.ndim != 4
            or latents.shape[-1] != self.in_channels
            or height % factor
            or width % factor
        ):
            raise ValueError(
                f"Latents of shape {latents.shape}; expected [batch, height, width, "
                f"{self.in_channels}], height and width multiples of {factor}."
            )
        if context.ndim != 3 or context.shape[-1] != self.context_width:
            raise ValueError(
                f"Hidden states of shape {context.shape}; expected [batch, tokens, "
                f"{self.context_width}]. Use the text encoder of the same model."
            )
        if guidance is not None and guidance.shape[-1] != self.guidance_width:
            raise ValueError(
                f"An embedded guidance scale of shape {guidance.shape}; expected "
                f"[batch, {self.guidance_width}]: see guidance_embedding. None is for "
                "networks without this input."
            )


# Attributes of published networks, beside Stable Diffusion 1.x's own.
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd-1.5": {},
    "sd-2.1": {
        "heads": (5, 10, 20, 20),
        "context_width": 1024,
        "linear_projection": True,
    },
    "sd-1.5-inpainting": {"in_channels": 9},
    "lcm-dreamshaper-v7": {"guidance_width": 256},
}
