"""The UNet's attention, and the hook by which pure functions control it.

Every attention calls ``attn_fn(site, q, k, v, scale, state) -> (out, aux)``. The
function sees all rows of the batch, may move queries, keys and values between them or
change the probabilities, and returns statistics, which the UNet hands out by the name
of the site. ``state`` holds what changes with the step; nothing is mutable.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.diffusion.attention import AttentionFn, Site


class Attention(nn.Module):
    """Multi-head attention of pixels to pixels or to the tokens of a text.

    Attributes:
      site: where it stands.
      heads: into which the width is split.
      dtype: of the computation.
    """

    site: Site
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array, attn_fn: AttentionFn, state: Any
    ) -> tuple[jax.Array, Any]:
        """Maps ``[batch, n, width]`` and ``[batch, m, any]``; also returns ``aux``."""
        width = x.shape[-1]
        q, k, v = (
            self._split(nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(y))
            for name, y in (("to_q", x), ("to_k", context), ("to_v", context))
        )
        out, aux = attn_fn(self.site, q, k, v, (width // self.heads) ** -0.5, state)
        out = jnp.swapaxes(out, 1, 2).reshape(x.shape).astype(self.dtype)
        return nn.Dense(width, dtype=self.dtype, name="to_out_0")(out), aux

    def _split(self, x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(*x.shape[:2], self.heads, -1), 1, 2)
